# The guest of `kigi demo`: a program of one sector that a BIOS starts in 16-bit real mode.
#
# It counts its starts on its disk and then prints one line every 5 s on the first serial port:
#   KIGI-GUEST machine=mail1 state=infected boot=1
# It ends when the power button is pressed (ACPI registers of QEMU's q35 and pc machines), within 55 ms.
# program.py has the machine code; its test assembles this file again:
#   as --32 -o guest.o guest.S && ld -m elf_i386 -Ttext 0x7c00 --oformat binary -e 0 -o guest.bin guest.o

.code16
.text

.set TEXT, 0x8000               # sector with the text to print, which ends with a zero byte
.set COUNTER, 0x8200            # sector with the number of starts
.set TEXT_SECTOR, 128           # second cluster of 64 KiB
.set COUNTER_SECTOR, 256        # third cluster
.set PORT, 0x3f8
.set TICKS, 0x046c              # of the BIOS, 18.2 per second
.set PAUSE, 91
.set POWER_STATUS, 0x600
.set POWER_ENABLE, 0x602
.set POWER_CONTROL, 0x604
.set POWER_BUTTON, 0x100
.set POWER_OFF, 0x2000

        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        sti
        cld
        movb    %dl, drive

        movw    $line_settings, %si     # 115200 baud, 8 bits, no parity
1:      lodsw
        testw   %ax, %ax
        jz      2f
        movzbw  %al, %dx
        addw    $PORT, %dx
        movb    %ah, %al
        outb    %al, %dx
        jmp     1b

2:      movw    $POWER_BUTTON, %ax
        movw    $POWER_ENABLE, %dx
        outw    %ax, %dx

        movb    $0x42, %ah              # extended read
        movw    $TEXT, packet_buffer
        movb    $TEXT_SECTOR, packet_sector
        call    transfer
        movb    $0x42, %ah
        movw    $COUNTER, packet_buffer
        movw    $COUNTER_SECTOR, packet_sector
        call    transfer
        incw    COUNTER
        movw    $0x4300, %ax            # extended write
        call    transfer

report: movw    $begin, %si
        call    print
        movw    $TEXT, %si
        call    print
        movw    $boot, %si
        call    print
        movw    COUNTER, %ax
        call    number
        cmpb    $0, failed
        je      3f
        movw    $disk_error, %si
        call    print
3:      movw    $end, %si
        call    print

        movl    TICKS, %ebx
wait:   movw    $POWER_STATUS, %dx
        inw     %dx, %ax
        testw   $POWER_BUTTON, %ax
        jz      4f
        movw    $POWER_OFF, %ax
        movw    $POWER_CONTROL, %dx
        outw    %ax, %dx
4:      hlt
        movl    TICKS, %eax
        subl    %ebx, %eax              # very large after midnight, when the BIOS counts from 0 again
        cmpl    $PAUSE, %eax
        jb      wait
        jmp     report

transfer:                               # AH: operation of interrupt 13h
        movw    $packet, %si
        movb    drive, %dl
        int     $0x13
        jnc     5f
        movb    $1, failed
5:      ret

number: movw    $10, %cx                # prints AX
        xorw    %dx, %dx
        divw    %cx
        pushw   %dx
        testw   %ax, %ax
        jz      6f
        call    number
6:      popw    %ax
        addb    $'0', %al
        jmp     put

print:  lodsb                           # prints the text at SI up to its zero byte
        testb   %al, %al
        jz      7f
        call    put
        jmp     print
7:      ret

put:    movb    %al, %ah                # prints AL
        movw    $PORT + 5, %dx
8:      inb     %dx, %al
        testb   $0x20, %al
        jz      8b
        movw    $PORT, %dx
        movb    %ah, %al
        outb    %al, %dx
        ret

line_settings:                          # register, value
        .byte   1, 0x00
        .byte   3, 0x80
        .byte   0, 0x01
        .byte   1, 0x00
        .byte   3, 0x03
        .byte   2, 0xc7
        .byte   4, 0x03
        .byte   0, 0x00
begin:  .asciz  "KIGI-GUEST "
boot:   .asciz  " boot="
disk_error:
        .asciz  " disk=error"
end:    .asciz  "\r\n"
drive:  .byte   0
failed: .byte   0
        .balign 4
packet: .byte   16, 0                   # disk address packet: 1 sector
        .word   1
packet_buffer:
        .word   0, 0
packet_sector:
        .quad   0
