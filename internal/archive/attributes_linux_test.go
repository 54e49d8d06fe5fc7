package archive

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestLayerAttributes: no extended attribute of a layer comes to the disk.
func TestLayerAttributes(t *testing.T) {
	dir, err := layers(t, []member{{name: "a", body: "1", pax: map[string]string{
		"SCHILY.xattr.user.plain": "x", "SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.security.capability": "x"}}})
	if err != nil {
		t.Fatal(err)
	}
	probe := filepath.Join(dir, "probe")
	if err := os.WriteFile(probe, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setxattr(probe, "user.plain", []byte("x"), 0); err != nil {
		t.Skipf("by design: the file system has no such attributes: %v", err)
	}
	buf := make([]byte, 1024)
	if n, err := syscall.Listxattr(filepath.Join(dir, "a"), buf); err != nil || n > 0 {
		t.Errorf("it has %q, %v", buf[:max(n, 0)], err)
	}
}
