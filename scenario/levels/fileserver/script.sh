systemctl mask nmbd.service samba-ad-dc.service
