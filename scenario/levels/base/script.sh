systemctl enable systemd-networkd.service
# Nothing of this helps a guest that starts from the same layers again, and each costs time in an emulated CPU.
systemctl mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    systemd-networkd-wait-online.service systemd-pstore.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-rfkill.service systemd-rfkill.socket modprobe@drm.service \
    getty.target console-getty.service serial-getty@ttyS0.service getty@tty1.service \
    dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    systemd-binfmt.service systemd-machine-id-commit.service systemd-journal-flush.service systemd-update-done.service \
    systemd-sysusers.service systemd-random-seed.service systemd-modules-load.service systemd-network-generator.service \
    modprobe@.service kmod-static-nodes.service sys-fs-fuse-connections.mount sys-kernel-config.mount ldconfig.service
passwd --lock root
update-initramfs -u -k all
: >/etc/machine-id
