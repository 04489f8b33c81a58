package natsd

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestFileSystems(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		magic             int64
		name              string
		inMemory, noFlush bool
	}{
		{unix.TMPFS_MAGIC, "tmpfs", true, true},
		{unix.FUSE_SUPER_MAGIC, "fuse", false, true},
		{unix.SMB2_SUPER_MAGIC, "smb", false, true},
		{unix.EXT4_SUPER_MAGIC, "ext4", false, false},
		{unix.BTRFS_SUPER_MAGIC, "btrfs", false, false},
		{42, "", false, false},
	} {
		if name, inMemory, noFlush := fileSystems(test.magic & 0xffffffff); name != test.name || inMemory != test.inMemory || noFlush != test.noFlush {
			t.Errorf("%x is %q, in memory %v, without flush %v; want %+v", test.magic, name, inMemory, noFlush, test)
		}
	}
}
