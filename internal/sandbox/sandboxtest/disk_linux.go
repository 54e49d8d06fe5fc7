package sandboxtest

import (
	"bytes"
	"context"
	"errors"
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
	own := limited(sandbox.LimitDisk)(driver().Capabilities()) // the driver's, in memory
	begin := func() *sandbox.Keeper {
		pool, err := disk.NewPool(disk.Config{Dir: filepath.Join(dir, "disks")})
		if err != nil {
			t.Fatal(err)
		}
		if err := pool.Able(); err != nil && !own {
			t.Skipf("no disks here: %v", err)
		}
		limits := sandbox.Limits{Disk: size, Required: []sandbox.Limit{sandbox.LimitDisk}}
		k, err := sandbox.NewKeeper(sandbox.KeeperConfig{
			Driver: driver(), Dir: filepath.Join(dir, "s"), Spec: sandbox.Spec{Limits: limits}, Disks: pool, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Ended: func(_ context.Context, session, dir string) error {
				_, err := os.Stat(filepath.Join(dir, "tree/mnt/session/outputs/made"))
				ended[session] = err == nil
				return nil
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
		"rm -r /workspace/many; mkdir /workspace/many && " + stuff("/workspace/many", 3900) + " | grep -q no-more",
		`rm -r /workspace/many; perl -e 'chdir "/workspace"; for (1..100_000) { mkdir "d" or die "$!\n"; chdir "d" or die "$!\n" }'`,
	} {
		if out := w.long("{ " + full + "; } 2>&1"); out.ExitCode == 0 || !strings.Contains(Output(out), "No space left") {
			t.Errorf("%q ended with %d: %q", full, out.ExitCode, Output(out))
		}
		w.Want("echo alive", "alive\n", toolset.Exited, 0)
	}
	if info, err := os.Stat(filepath.Join(w.Spec.Dir, "disk.img")); !own && (err != nil || info.Size() > size) {
		t.Errorf("the image: %v %v", info, err)
	}
	w.Want("rm -r /workspace/d && echo y >/workspace/y && cat /workspace/y", "y\n", toolset.Exited, 0)

	// The next worker finds it.
	folder := w.Spec.Dir
	began := time.Now()
	if err := k.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > patience {
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
		if own { // the memory went with its last user
			h, lost, err := k.Open(t.Context(), "sesn_disk")
			if err != nil || !lost {
				t.Fatalf("files that are gone are not said to be: %v %v", lost, err)
			}
			w = &World{Sandbox: h.Sandbox(), T: t, Spec: h.Sandbox().Record().Spec}
			w.Want("ls /workspace; echo kept >/workspace/kept", "", toolset.Exited, 0)
		} else {
			w = open(k)
		}
		w.Want("cat /workspace/kept", "kept\n", toolset.Exited, 0)
	}
	if own {
		k = testMemoryDisk(w, k, begin, open)
	}
	h, _, err := k.Open(t.Context(), "sesn_disk")
	if err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	if err := h.Close(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > patience {
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

// testMemoryDisk goes through what can happen to a disk in memory while it is in
// use: what tools wrote is there afterwards. The keeper that it gives has it.
func testMemoryDisk(w *World, k *sandbox.Keeper, begin func() *sandbox.Keeper, open func(*sandbox.Keeper) *World) *sandbox.Keeper {
	t := w.T.(*testing.T)
	const setup = `cd /workspace && rm -rf * && mkdir -p sub/shut && echo one >sub/one && ln sub/one two && ln -s sub/one three && mkfifo four && truncate -s 1G holes &&
		printf '#!/bin/sh\necho ran\n' >run && chmod 500 run && echo secret >sub/shut/in && chmod 000 sub/shut && touch -d 2020-02-02 run && echo shut >no && chmod 000 no && echo out >/mnt/session/outputs/out`
	const look = `cd /workspace && ls -1 && stat -c '%h %a %s' sub/one run sub/shut holes no && stat -c %Y run && readlink three && ./run && chmod 700 sub/shut && cat sub/shut/in && chmod 000 sub/shut && du -k holes | cut -f1`
	w.Want(setup, "", toolset.Exited, 0)
	want := Output(w.Do(look))
	again := func(why string) {
		t.Helper()
		if got := Output(w.Do(look)); got != want || got == "" {
			t.Errorf("after %s the files are\n%s\nnot\n%s", why, got, want)
		}
		w.Want("head -c 1G /dev/zero >/workspace/big 2>/dev/null; echo full; rm /workspace/big", "full\n", toolset.Exited, 0)
	}
	close := func() {
		t.Helper()
		h, _, err := k.Open(t.Context(), "sesn_disk")
		if err == nil {
			err = h.Close(t.Context(), false)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	close()
	if b, err := os.ReadFile(filepath.Join(w.Spec.Dir, "tree/mnt/session/outputs/out")); err != nil || string(b) != "out\n" {
		t.Errorf("the output on disk is %q, %v", b, err)
	}
	w = open(k)
	again("a sandbox's end")

	// The agent is killed: the supervisor's descriptors hold the memory.
	if err := w.Files().WriteFile("/workspace/tool", []byte("by a file tool\n")); err != nil {
		t.Fatal(err)
	}
	w.Want("cat /workspace/tool; rm /workspace/tool; rm no; echo shot >no; chmod 000 no", "by a file tool\n", toolset.Exited, 0)
	if err := w.Sandbox.(forgetter).Process().Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Bash(t.Context(), toolset.Command{Text: "true"}); err == nil {
		t.Error("a killed sandbox answers")
	}
	f, err := w.Files().Open("/workspace/sub/one")
	if err != nil {
		t.Errorf("the files of a killed sandbox: %v", err)
	} else {
		f.Close()
	}
	close()
	w = open(k)
	again("the agent's end")

	w = testMemoryKept(w, k, open)
	again("an end that failed first")

	// The worker is killed, and the next one cannot speak to the agent, nor at
	// first write to the disk.
	for _, mode := range []os.FileMode{0o700, 0o500} {
		if err := errors.Join(os.Remove(filepath.Join(w.Spec.Dir, "agent.sock")), os.Chmod(w.Spec.Dir, mode)); err != nil {
			t.Fatal(err)
		}
		k = begin()
		if err := os.Chmod(w.Spec.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		w = open(k)
		again("an agent that does not answer")
	}

	// The worker is killed, and the sandbox lives.
	w.Want("echo late >/workspace/sub/late", "", toolset.Exited, 0)
	k = begin()
	w = open(k)
	w.Want("cat /workspace/sub/late", "late\n", toolset.Exited, 0)
	again("the worker's end")
	if b, err := w.Files().Open("/workspace/sub/late"); err != nil {
		t.Errorf("taken over, the files are not to be had: %v", err)
	} else {
		b.Close()
	}
	return k
}

// testMemoryKept: what is in memory is neither lost when the disk does not take
// it at once nor when something else cannot be cleared away. The sandbox that it
// gives has the files.
func testMemoryKept(w *World, k *sandbox.Keeper, open func(*sandbox.Keeper) *World) *World {
	t := w.T.(*testing.T)
	dir := w.Spec.Dir
	record := filepath.Join(dir, "record.json")
	for _, c := range []struct {
		what        string
		hinder, let func() error
		adrift      bool
	}{
		{"a disk that takes nothing", func() error { return os.Chmod(dir, 0o500) }, func() error { return os.Chmod(dir, 0o700) }, true},
		{"a record that cannot be removed",
			func() error { return errors.Join(os.Remove(record), os.MkdirAll(record+"/x", 0o700)) },
			func() error { return os.RemoveAll(record) }, false},
	} {
		h, _, err := k.Open(t.Context(), "sesn_disk")
		if err == nil {
			err = c.hinder()
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Close(t.Context(), false); err == nil || disk.Adrift(dir) != c.adrift {
			t.Errorf("%s: Close gives %v, adrift is %v", c.what, err, disk.Adrift(dir))
		}
		if err := c.let(); err != nil {
			t.Fatal(err)
		}
		w = open(k)
	}
	return w
}
