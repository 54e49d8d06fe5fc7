package agent

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
)

// ownTree is a tree to give away.
func ownTree(t *testing.T) sandbox.Spec {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can give files to another user: run the test as root")
	}
	spec := sandbox.Spec{Tree: t.TempDir(), Workdir: "/workspace"}
	for _, place := range Places(spec) {
		if err := os.MkdirAll(filepath.Join(spec.Tree, place), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return spec
}

// TestOwnADeepTree: a path longer than the kernel takes keeps no session from
// its next sandbox.
func TestOwnADeepTree(t *testing.T) {
	spec := ownTree(t)
	root, err := os.OpenRoot(filepath.Join(spec.Tree, "workspace"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	deep := strings.Repeat(strings.Repeat("d", 200)+"/", 25)
	if err := root.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := root.WriteFile(deep+"f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := root.WriteFile("z", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Own(spec, FirstUser, FirstUser); err != nil {
		t.Fatal(err)
	}
	info, err := root.Stat("z")
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != FirstUser {
		t.Errorf("what comes after it: %+v %v", info, err)
	}
}
