package doctor

import "golang.org/x/sys/unix"

// free is what an ordinary user may still take of the file system at dir. A
// file system that counts no inodes has enough.
func free(dir string) (bytes, inodes uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	inodes = st.Ffree
	if st.Files == 0 {
		inodes = freeInodes
	}
	return st.Bavail * uint64(st.Bsize), inodes, nil
}
