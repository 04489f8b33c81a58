package natsd

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// fileSystems are those on which a store or its flush is not what it seems. The kernel's
// syncfs reports success on a FUSE file system without asking it.
func fileSystems(magic int64) (name string, inMemory, noFlush bool) {
	switch magic {
	case unix.TMPFS_MAGIC:
		return "tmpfs", true, true
	case unix.RAMFS_MAGIC:
		return "ramfs", true, true
	case unix.FUSE_SUPER_MAGIC:
		return "fuse", false, true
	case unix.NFS_SUPER_MAGIC:
		return "nfs", false, true
	case unix.V9FS_MAGIC:
		return "9p", false, true
	case unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC & 0xffffffff:
		return "smb", false, true
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", false, false
	case unix.XFS_SUPER_MAGIC:
		return "xfs", false, false
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", false, false
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay", false, false
	}
	return "", false, false
}

func statDisk(dir string) (Disk, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return Disk{}, fmt.Errorf("look at the disk of data directory %s: %w", dir, err)
	}
	d := Disk{Free: int64(stat.Bavail) * int64(stat.Bsize)} //nolint:unconvert // the types differ between machines
	d.FileSystem, d.InMemory, d.NoFlush = fileSystems(int64(stat.Type) & 0xffffffff)
	return d, nil
}
