package sandboxtest

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/disk"
	"github.com/berthdev/berth/toolset"
)

// testDisk fills a session's disk with bytes and with files, as a worker has
// it: a disk for each session, found again by the next sandbox and after the
// worker's end, and gone when the session is forgotten.
func testDisk(t *testing.T, driver func() sandbox.Driver) {
	const size = 32 << 20
	dir := t.TempDir()
	var log bytes.Buffer
	ended := map[string]bool{}
	begin := func() *sandbox.Keeper {
		pool, err := disk.NewPool(disk.Config{Dir: filepath.Join(dir, "disks")})
		if err != nil {
			t.Fatal(err)
		}
		if err := pool.Able(); err != nil {
			t.Skipf("no disks here: %v", err)
		}
		limits := sandbox.Limits{Disk: size, Required: []sandbox.Limit{sandbox.LimitDisk}}
		k, err := sandbox.NewKeeper(sandbox.KeeperConfig{
			Driver: driver(), Dir: filepath.Join(dir, "s"), Spec: sandbox.Spec{Limits: limits}, Disks: pool, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Ended: func(_ context.Context, session, dir string) {
				_, err := os.Stat(filepath.Join(dir, "tree/mnt/session/outputs/made"))
				ended[session] = err == nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return k
	}
	open := func(k *sandbox.Keeper) *World {
		t.Helper()
		h, lost, err := k.Open(t.Context(), "sesn_disk")
		if err != nil || lost {
			t.Fatalf("open: lost %v, %v\n%s", lost, err, log.String())
		}
		return &World{Sandbox: h.Sandbox(), T: t, Spec: h.Sandbox().Record().Spec}
	}
	k := begin()
	w := open(k)
	w.Perl("")
	r, err := sandbox.ReadReceipt(w.Spec.Dir)
	if err != nil || len(r.Enforced) != 1 || r.Enforced[0] != sandbox.LimitDisk {
		t.Errorf("the receipt says %v enforced, %v left; %v", r.Enforced, r.Left, err)
	}
	w.Want("echo x >/mnt/session/outputs/made; echo kept >/workspace/kept", "", toolset.Exited, 0)
	for _, full := range []string{ // each makes room again for the next
		"head -c 1G /dev/zero >/workspace/big",
		"rm /workspace/big; fallocate -l 1G /workspace/big2 || head -c 1G /dev/zero >/tmp/big2",
		`rm -f /workspace/big2 /tmp/big2; perl -e 'mkdir "/workspace/many"; for (1..100_000) { open my $f, ">", "/workspace/many/$_" or die "$!\n" }'`,
		`rm -r /workspace/many; perl -e 'chdir "/workspace"; for (1..100_000) { mkdir "d" or die "$!\n"; chdir "d" or die "$!\n" }'`,
	} {
		if out := w.Do("{ " + full + "; } 2>&1"); out.ExitCode == 0 || !strings.Contains(Output(out), "No space left") {
			t.Errorf("%q ended with %d: %q", full, out.ExitCode, Output(out))
		}
		w.Want("echo alive", "alive\n", toolset.Exited, 0)
	}
	if info, err := os.Stat(filepath.Join(w.Spec.Dir, "disk.img")); err != nil || info.Size() > size {
		t.Errorf("the image: %v %v", info, err)
	}
	w.Want("rm -r /workspace/d && echo y >/workspace/y && cat /workspace/y", "y\n", toolset.Exited, 0)

	// The next worker finds it.
	folder := w.Spec.Dir
	began := time.Now()
	if err := k.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("to stop took %v", took)
	}
	if !ended["sesn_disk"] {
		t.Error("the session's outputs were not to be seen after its end")
	}
	if left, err := disk.Leftovers(filepath.Join(dir, "s")); err != nil || len(left) != 0 {
		t.Errorf("still mounted: %v %v", left, err)
	}
	k = begin()
	w = open(k)
	w.Want("cat /workspace/kept", "kept\n", toolset.Exited, 0)

	// A worker that is killed leaves it mounted; so does a sandbox that dies
	// with it.
	ended["sesn_disk"] = false
	f, ok := w.Sandbox.(forgetter)
	if ok {
		if err := f.Process().Kill(); err != nil {
			t.Fatal(err)
		}
		k = begin()
		if left, err := disk.Leftovers(filepath.Join(dir, "s")); err != nil || len(left) != 0 || !ended["sesn_disk"] {
			t.Errorf("after a crash %v is mounted, kept: %v; %v", left, ended, err)
		}
		w = open(k)
		w.Want("cat /workspace/kept", "kept\n", toolset.Exited, 0)
	}
	h, _, err := k.Open(t.Context(), "sesn_disk")
	if err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	if err := h.Close(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("to forget took %v", took)
	}
	if _, err := os.Lstat(folder); err == nil {
		t.Error("the folder is still there")
	}
	if err := k.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	only(t, dir, "s")
}
