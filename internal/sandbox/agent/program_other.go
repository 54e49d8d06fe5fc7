//go:build !linux

package agent

import "os"

// sealed puts a program in a file that is this user's alone.
func sealed(b []byte) (*os.File, error) {
	f, err := os.CreateTemp("", name+"-*")
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, err
	}
	if err := f.Chmod(0o700); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func selfPath(self string) string { return self }
