package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox"
)

// fake makes directories that look like groups.
func fake(t *testing.T, root string, groups ...string) {
	t.Helper()
	for _, g := range groups {
		dir := filepath.Join(root, g)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": "", "cgroup.procs": ""} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestCandidates(t *testing.T) {
	root := t.TempDir()
	fake(t, root, "", "user.slice/app.scope", "sys.slice/unit/worker")
	for _, test := range []struct {
		name, mountRoot, path string
		mark                  string // the delegated group
		want                  []string
	}{
		{"the root", "/", "/", "", []string{""}},
		{"a scope", "/", "/user.slice/app.scope", "", []string{"user.slice/app.scope", "user.slice"}},
		{"a delegated unit with a group for the worker", "/", "/sys.slice/unit/worker", "sys.slice/unit", []string{"sys.slice/unit", "sys.slice/unit/worker"}},
		{"moved down before", "/", "/user.slice/app.scope/" + selfName, "", []string{"user.slice/app.scope"}},
		{"a container", "/docker/abc", "/docker/abc", "", []string{""}},
		{"a container's group below its root", "/docker/abc", "/docker/abc/user.slice", "", []string{"user.slice", ""}},
		{"elsewhere", "/docker/abc", "/docker/abcdef", "", nil},
	} {
		if test.mark != "" {
			if err := unix.Setxattr(filepath.Join(root, test.mark), "user.delegate", []byte("1"), 0); err != nil {
				t.Logf("%s: no extended attributes here: %v", test.name, err)
				continue
			}
		}
		got := candidates(mount{root: test.mountRoot, at: root, unified: true}, test.path)
		var want []string
		for _, w := range test.want {
			want = append(want, filepath.Join(root, w))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", test.name, got, want)
		}
	}
}

// TestSurvey reads what kernels say of themselves on machines of each kind.
func TestSurvey(t *testing.T) {
	const rest = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
	ms := cgroupMounts(rest + "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n" +
		"31 22 0:27 /docker/a\\040b /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n")
	if len(ms) != 2 || !ms[0].unified || ms[1].root != "/docker/a b" || ms[1].dir("/docker/a b/c") != "/sys/fs/cgroup/cpu,cpuacct/c" || !slices.Contains(ms[1].controllers, "cpuacct") {
		t.Errorf("%+v", ms)
	}
	own := ownPaths("12:cpu,cpuacct:/a:b\n1:name=systemd:/x\n0::/u\n")
	if own["cpu"] != "/a:b" || own["cpuacct"] != "/a:b" || own[""] != "/u" {
		t.Errorf("%v", own)
	}
	if h := survey("junk\n- - -\n", "junk\n"); h.unified != "" || len(h.legacy) != 0 || len(h.enforces()) != 0 {
		t.Errorf("of junk: %+v", h)
	}
}

// TestUnifiedLimits writes v2's limits: into files that stand for a group,
// because the machines of the tests have these controllers in v1.
func TestUnifiedLimits(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"cpu.max", "memory.max", "pids.max"} { // no memory.swap.max: a kernel without swap
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := sandbox.Limits{CPU: 1.5, Memory: 1 << 30, PIDs: 100}
	held, err := write(dir, unifiedSettings(l), []string{"cpu", "memory", "pids"})
	if err != nil || len(held) != 3 {
		t.Fatal(held, err)
	}
	for f, want := range map[string]string{"cpu.max": "150000 100000", "memory.max": "1073741824", "pids.max": "100"} {
		if b, _ := os.ReadFile(filepath.Join(dir, f)); string(b) != want {
			t.Errorf("%s is %q, want %q", f, b, want)
		}
	}
	if held, err := write(dir, unifiedSettings(l), []string{"memory"}); err != nil || !slices.Equal(held, []sandbox.Limit{sandbox.LimitMemory}) {
		t.Errorf("with memory alone: %v %v", held, err)
	}
	if err := os.Remove(filepath.Join(dir, "pids.max")); err != nil {
		t.Fatal(err)
	}
	if _, err := write(dir, unifiedSettings(l), bound); err == nil {
		t.Error("a limit that cannot be written is no error")
	}
	for name, text := range map[string]string{"memory.events": "low 0\noom 3\noom_kill 2\n", "memory.current": "4096\n", "memory.peak": "8192\n", "pids.current": "3\n", "cpu.stat": "usage_usec 1500\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g := Open(Dirs{Unified: dir})
	if u := g.Usage(); g.OOMs() != 2 || u.Memory != 4096 || u.MemoryPeak != 8192 || u.PIDs != 3 || u.CPU.Microseconds() != 1500 {
		t.Errorf("%d %+v", g.OOMs(), u)
	}
}

// roomVar has this test's program be a process in a group of its own: it makes
// room for groups with a controller, which v2 allows only to a group without
// processes.
const roomVar = "BERTH_TEST_CGROUP_ROOM"

func TestMain(m *testing.M) {
	if c := os.Getenv(roomVar); c != "" {
		os.Exit(makeRoom(c))
	}
	os.Exit(m.Run())
}

func makeRoom(controller string) int {
	bound = []string{controller}
	h := discover()
	g, _, err := h.make(Prefix+"inner", sandbox.Limits{})
	if err != nil || !slices.Equal(h.controllers, bound) {
		println("controllers:", strings.Join(h.controllers, " "), "error:", err)
		return 1
	}
	own, _ := os.ReadFile("/proc/self/cgroup")
	if !strings.HasSuffix(strings.TrimSpace(ownPaths(string(own))[""]), selfName) {
		println("it did not step down: " + string(own))
		return 1
	}
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: g.FD()}
	if err := cmd.Start(); err != nil {
		println("start inside: " + err.Error())
		return 1
	}
	if err := g.Kill(); err != nil {
		println("kill: " + err.Error())
		return 1
	}
	_ = cmd.Wait()
	if err := g.Remove(); err != nil {
		println("remove: " + err.Error())
		return 1
	}
	// A second look finds the same parent from below.
	if again := discover(); again.unified != h.unified || !slices.Equal(again.controllers, bound) {
		println("from below:", again.unified, strings.Join(again.controllers, " "))
		return 1
	}
	return 0
}

// TestDelegated gives a v2 group away and has a process in it, root's and an
// ordinary user's, make groups there.
func TestDelegated(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to delegate a group")
	}
	const controller = "hugetlb" // of all, the one that v2 has on a hybrid machine
	root := ""
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, m := range cgroupMounts(string(mounts)) {
		if m.unified && writable(m.at) && slices.Contains(words(filepath.Join(m.at, "cgroup.controllers")), controller) {
			root = m.at
		}
	}
	if root == "" {
		t.Skip("no v2 hierarchy with a controller to try is mounted here")
	}
	if !slices.Contains(words(filepath.Join(root, "cgroup.subtree_control")), controller) {
		if err := put(filepath.Join(root, "cgroup.subtree_control"), "+"+controller); err != nil {
			t.Skipf("the controller cannot be handed down: %v", err)
		}
		defer put(filepath.Join(root, "cgroup.subtree_control"), "-"+controller)
	}
	for name, uid := range map[string]int{"root": 0, "an ordinary user": 65534} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(root, Prefix+"delegated-"+strconv.Itoa(os.Getpid()))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			defer func() {
				for _, d := range []string{filepath.Join(dir, selfName), dir} {
					if err := (&Group{Dirs: Dirs{Unified: d}, fd: -1}).Remove(); err != nil {
						t.Error(err)
					}
				}
			}()
			for _, f := range []string{"", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} {
				if err := os.Chown(filepath.Join(dir, f), uid, uid); err != nil {
					t.Fatal(err)
				}
			}
			fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{roomVar + "=" + controller}
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
			out, err := cmd.CombinedOutput()
			if errors.Is(err, unix.EACCES) {
				t.Fatalf("the test's program is not to be run by others: %v", err)
			}
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
