package sandboxtest

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// testFullScratch fills what a sandbox has of its own: the shell lives on, and
// can make room again.
func testFullScratch(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	w.Want("kept=1; for f in /dev/shm/x /home/agent/x /run/x; do cat /dev/zero >$f; done 2>&-; rm -f /run/x; cat /dev/zero 2>&- >/run/x", "", toolset.Exited, 1)
	w.Want("echo alive $kept #"+strings.Repeat("x", 64<<10), "alive 1\n", toolset.Exited, 0)
	w.Want("rm /dev/shm/x /home/agent/x /run/x && echo x >/dev/shm/y && cat /dev/shm/y", "x\n", toolset.Exited, 0)
}

// testKeyring plants a key in the session keyring that the sandbox's processes
// would inherit.
func testKeyring(t *testing.T, d sandbox.Driver) {
	runtime.LockOSThread() // the keyring is the thread's, which ends with the test
	if _, err := unix.KeyctlJoinSessionKeyring("berth-test"); err != nil {
		t.Skipf("no keyrings here: %v", err)
	}
	const name = "berth-planted-key"
	if _, err := unix.AddKey("user", name, []byte(secretA+secretB), unix.KEY_SPEC_SESSION_KEYRING); err != nil {
		t.Skipf("no keys here: %v", err)
	}
	if b, err := os.ReadFile("/proc/keys"); err != nil || !strings.Contains(string(b), name) {
		t.Skipf("the key is not to be seen here either: %v", err)
	}
	w := Start(t, d, nil)
	if out := Output(w.Do("cat /proc/keys")); strings.Contains(out, name) {
		t.Errorf("the supervisor's keys are seen inside:\n%s", out)
	}
	search := "perl -e '$t = \"user\"; $n = \"" + name + "\"; print \"found\" if syscall(" + strconv.Itoa(unix.SYS_KEYCTL) + ", " + strconv.Itoa(unix.KEYCTL_SEARCH) + ", " +
		strconv.Itoa(unix.KEY_SPEC_SESSION_KEYRING) + ", $t, $n, 0) > 0'"
	w.Want(search, "", toolset.Exited, 0)
}

// testSyscalls asks for what no tool needs and exploits begin with.
func testSyscalls(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	if r := w.Do("perl -e 1"); r.ExitCode != 0 {
		t.Skip("perl is missing")
	}
	// call says how a system call fails: the error's number, 0 for none.
	call := func(nr int, args ...string) string {
		list := strings.Join(append([]string{strconv.Itoa(nr)}, args...), ",")
		return Output(w.Do("perl -e '$!=0; print syscall(" + list + ") < 0 ? $!+0 : 0'"))
	}
	s := w.status("self")
	if s["Seccomp"] != "2" {
		t.Errorf("Seccomp is %q", s["Seccomp"])
	}
	for name, nr := range map[string]int{
		"mount": unix.SYS_MOUNT, "umount2": unix.SYS_UMOUNT2, "setns": unix.SYS_SETNS, "pivot_root": unix.SYS_PIVOT_ROOT,
		"open_tree": unix.SYS_OPEN_TREE, "fsopen": unix.SYS_FSOPEN, "move_mount": unix.SYS_MOVE_MOUNT, "mount_setattr": unix.SYS_MOUNT_SETATTR,
		"bpf": unix.SYS_BPF, "perf_event_open": unix.SYS_PERF_EVENT_OPEN, "io_uring_setup": unix.SYS_IO_URING_SETUP,
		"userfaultfd": unix.SYS_USERFAULTFD, "keyctl": unix.SYS_KEYCTL, "add_key": unix.SYS_ADD_KEY, "request_key": unix.SYS_REQUEST_KEY,
		"kexec_load": unix.SYS_KEXEC_LOAD, "init_module": unix.SYS_INIT_MODULE, "finit_module": unix.SYS_FINIT_MODULE,
		"open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT, "process_vm_writev": unix.SYS_PROCESS_VM_WRITEV,
	} {
		if got := call(nr, "0", "0", "0", "0", "0"); got != strconv.Itoa(int(unix.EPERM)) {
			t.Errorf("%s: error %s, want EPERM", name, got)
		}
	}
	if got := call(unix.SYS_UNSHARE, strconv.Itoa(unix.CLONE_NEWUSER)); got != "1" {
		t.Errorf("unshare: error %s", got)
	}
	if got := call(unix.SYS_CLONE, strconv.Itoa(unix.CLONE_NEWUSER|int(unix.SIGCHLD)), "0", "0", "0", "0"); got != "1" {
		t.Errorf("clone with a user namespace: error %s", got)
	}
	if got := call(unix.SYS_CLONE3, "0", "0"); got != strconv.Itoa(int(unix.ENOSYS)) {
		t.Errorf("clone3: error %s", got)
	}
	if got := call(unix.SYS_PTRACE, strconv.Itoa(unix.PTRACE_ATTACH), "1", "0", "0"); got != "1" {
		t.Errorf("ptrace of the agent: error %s", got)
	}
	// Sockets that no network namespace holds back.
	for _, family := range []int{unix.AF_VSOCK, unix.AF_ALG, unix.AF_PACKET, unix.AF_TIPC} {
		if got := call(unix.SYS_SOCKET, strconv.Itoa(family), strconv.Itoa(unix.SOCK_DGRAM), "0"); got != strconv.Itoa(int(unix.EAFNOSUPPORT)) {
			t.Errorf("a socket of family %d: error %s", family, got)
		}
	}
	for _, family := range []int{unix.AF_UNIX, unix.AF_INET, unix.AF_NETLINK} {
		if got := call(unix.SYS_SOCKET, strconv.Itoa(family), strconv.Itoa(unix.SOCK_DGRAM), "0"); got != "0" {
			t.Errorf("a socket of family %d: error %s", family, got)
		}
	}
	// A debugger works on what is its own.
	w.Want("perl -e 'exit(syscall("+strconv.Itoa(unix.SYS_PTRACE)+",0,0,0,0) != 0)'; unshare -U true 2>&-; echo $?", "1\n", toolset.Exited, 0)
}

// testBounds checks the limits that need no cgroup: no core dumps, for which
// the host would run a program, and a bomb that stays small.
func testBounds(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	w.Want("ulimit -Hc; ulimit -c unlimited 2>&-; (bash -c 'kill -SEGV $$'; true) 2>&-; ls", "0\n", toolset.Exited, 0)
	limit, _ := strconv.Atoi(strings.TrimSpace(Output(w.Do("ulimit -Hu"))))
	if limit <= 0 || limit > 4096 {
		t.Errorf("%d processes are allowed", limit)
	}
	for _, bomb := range []string{":(){ :|:& }; : 2>/dev/null; sleep 3600", "while :; do sleep 3600 & done 2>/dev/null"} {
		w = w.storm(d, bomb, 2*time.Second)
		w.Want("until ls -d /proc/[0-9]* 2>&- | wc -l | grep -qx '[0-9]'; do sleep 0.1; done; echo calm", "calm\n", toolset.Exited, 0)
	}
}
