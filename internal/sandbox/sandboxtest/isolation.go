package sandboxtest

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// secret is planted around the sandbox. Commands put it together from two
// parts, so that they do not find themselves.
const secretA, secretB = "sk-berth-planted-", "Zx81QQ"

// testCleanEnvironment looks for the supervisor's environment and descriptors.
func testCleanEnvironment(t *testing.T, d sandbox.Driver) {
	t.Setenv("ANTHROPIC_API_KEY", secretA+secretB)
	t.Setenv("HARMLESS_LOOKING", secretA+secretB)
	w := Start(t, d, nil)
	out := Output(w.Do("env; set; export -p; tr '\\0' '\\n' </proc/self/environ; tr '\\0' '\\n' </proc/$PPID/environ"))
	if strings.Contains(out, secretB) || strings.Contains(out, "HARMLESS") {
		t.Errorf("the supervisor's environment is inside: %s", out)
	}
	for _, want := range []string{"TERM=dumb\n", "PS1=\n"} {
		if !strings.Contains(Output(w.Do("export -p | sed 's/declare -x //;s/\"//g'")), want) {
			t.Errorf("%q is missing", want)
		}
	}
	fds := Output(w.Do("for f in /proc/self/fd/*; do readlink $f; done"))
	for line := range strings.Lines(fds) {
		line = strings.TrimSpace(line)
		if line != "/dev/null" && !strings.Contains(line, "berth/out") && !strings.Contains(line, "/run/out") && !strings.HasPrefix(line, "/proc/") {
			t.Errorf("a command has the descriptor %s", line)
		}
	}
}

// status reads a process's state from inside.
func (w *World) status(pid string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(Output(w.Do("cat /proc/" + pid + "/status"))) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			m[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	return m
}

func testPrivileges(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	for _, pid := range []string{"self", "1", "1/task/[0-9]*"} {
		s := w.status(pid)
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
			if s[set] != "0000000000000000" {
				t.Errorf("%s of %s is %s", set, pid, s[set])
			}
		}
		if s["NoNewPrivs"] != "1" {
			t.Errorf("NoNewPrivs of %s is %q", pid, s["NoNewPrivs"])
		}
	}
	s := w.status("self")
	user, _, _ := strings.Cut(s["Uid"], " ")
	if s["CapBnd"] != "0000000000000000" || user == "0" || s["Uid"] != strings.TrimSpace(strings.Repeat(user+" ", 4)) {
		t.Errorf("bounding set %s, uid %s", s["CapBnd"], s["Uid"])
	}
	// On the host it is an ordinary user, and alone in its namespaces.
	f := w.Sandbox.(forgetter)
	host := "/proc/" + strconv.Itoa(f.Process().Handle.PID)
	status, err := os.ReadFile(host + "/status")
	if err != nil {
		t.Fatal(err)
	}
	uid := regexp.MustCompile(`(?m)^Uid:\t(\d+)\t(\d+)`).FindStringSubmatch(string(status))
	if uid == nil || uid[1] == "0" || uid[1] != uid[2] {
		t.Errorf("on the host the uid is %v", uid)
	}
	inside := Output(w.Do("cd /proc/self/ns; for n in cgroup ipc mnt net pid user uts; do readlink $n; done"))
	if strings.Count(inside, "\n") != 7 && !w.Kernel {
		t.Fatalf("namespaces: %q", inside)
	}
	for ns := range strings.Lines(inside) {
		ns = strings.TrimSpace(ns)
		name, _, _ := strings.Cut(ns, ":")
		if name == "user" && uid != nil && uid[1] == user {
			continue // without users of its own; this one is nobody else's on the host
		}
		if mine, err := os.Readlink("/proc/self/ns/" + name); err != nil || mine == ns {
			t.Errorf("the %s namespace is the host's (%v)", name, err)
		}
	}
	for _, text := range []string{
		"mount -t tmpfs x /mnt", "mount -o remount,rw /usr", "umount /workspace", "unshare -Ur true", "unshare -m true", "hostname other",
		"chroot / true", "mknod /tmp/d b 254 0", "su -c true", "sudo -n true", "kill -9 1 && ! kill -0 1", "cat /proc/1/environ", "ls /proc/1/fd",
		"ls -l /proc/1/root/", "touch /usr/x", "touch /x", "touch /etc/x", "echo x >/proc/sys/kernel/hostname", "echo b >/proc/sysrq-trigger",
		"echo x >/proc/sys/kernel/core_pattern", "cat /dev/mem", "nsenter -t 1 -m true", "dd if=/proc/1/mem of=/dev/null count=1",
	} {
		if w.Kernel && text == "ls /proc/1/fd" {
			continue // gVisor shows them to every process of the same user
		}
		if r := w.Do("(" + text + ") 2>&1"); r.End != toolset.Exited || r.ExitCode == 0 {
			t.Errorf("%q was allowed: %q %s", text, Output(r), r.End)
		}
	}
	w.Want("echo alive", "alive\n", toolset.Exited, 0)
}

// testPlanted looks for keys that lie around the sandbox: in the supervisor's
// environment, in its files, in the command lines of the host's processes.
func testPlanted(t *testing.T, d sandbox.Driver) {
	key := secretA + secretB
	t.Setenv("ANTHROPIC_ENVIRONMENT_KEY", key)
	w := Start(t, d, nil)
	data := filepath.Dir(w.Spec.Dir)
	if err := os.WriteFile(filepath.Join(data, "master.key"), []byte(key), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.Spec.Dir, "beside-the-tree"), []byte(key), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(filepath.Join(w.Spec.Dir, "beside-the-tree"))
	busy := exec.Command("sleep", "3600")
	busy.Args[0] = key
	busy.Env = []string{"KEY=" + key}
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { busy.Process.Kill(); busy.Wait() }()
	reach(t, key, 1) // the bait is in the process table
	hunt := "a=" + secretA + "; b=" + secretB + `; printf '%s\n' "$a$b" >/tmp/what
		for f in /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/task/*/environ; do grep -qaFf /tmp/what $f 2>/dev/null && echo "$f"; done
		find / -xdev -type f ! -path /tmp/what ! -path '/proc/*' ! -path '/usr/*' ! -path '/dev/*' -print0 2>/dev/null | xargs -0 grep -laFf /tmp/what 2>/dev/null
		for m in /run /tmp /workspace /mnt/session /mnt/memory /home /dev/shm /etc; do grep -raslFf /tmp/what $m 2>/dev/null | grep -v '^/tmp/what$'; done
		for p in /proc/[0-9]*; do for m in root cwd; do ls $p/$m` + data + ` 2>/dev/null; done; done
		ls ` + data + ` 2>/dev/null; rm /tmp/what; true`
	if out := Output(w.Do(hunt)); strings.TrimSpace(out) != "" {
		t.Errorf("found: %s", out)
	}
	// The same hunt finds a key that is inside: it can see.
	if err := w.Files().WriteFile("/workspace/mine", []byte("x"+key+"y")); err != nil {
		t.Fatal(err)
	}
	if out := Output(w.Do(hunt)); !strings.Contains(out, "/workspace/mine") {
		t.Errorf("the hunt is blind: %q", out)
	}
	pids := strings.Fields(Output(w.Do("ls /proc | grep '^[0-9]'")))
	for _, pid := range pids {
		if n, _ := strconv.Atoi(pid); n > 5000 {
			t.Errorf("process %s is not the sandbox's", pid)
		}
	}
	if len(pids) > 6 {
		t.Errorf("%d processes are seen: %v", len(pids), pids)
	}
}

func testFiles(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	root := strings.Fields(Output(w.Do("ls -A /")))
	allowed := map[string]bool{}
	for _, name := range strings.Fields(".dockerenv bin dev etc home lib lib32 lib64 libx32 mnt opt proc run sbin sys tmp usr var workspace") {
		allowed[name] = true
	}
	for _, name := range root {
		if !allowed[name] {
			t.Errorf("/%s is of the host", name)
		}
	}
	for _, gone := range []string{"/root", "/etc/shadow", "/etc/ssh", "/var/lib/dpkg", "/sys/class", "/dev/vda", "/dev/kvm", "/run/docker.sock"} {
		w.Want("ls -d "+gone+" 2>&-", "", toolset.Exited, 2)
	}
	if w.Kernel { // its table of mounts says nothing of devices, and little of who may write
		w.Want("ls -A /sys; find / -xdev \\( -path /proc -o -path /dev \\) -prune -o -writable ! -type l -print 2>&- | sort; find /dev -maxdepth 1 -type b; "+
			"find /usr /etc /opt /var -maxdepth 2 -writable ! -type l -print 2>&-", "/home\n/mnt/memory\n/mnt/session\n/run\n/tmp\n/workspace\n", toolset.Exited, 0)
		return
	}
	// Only what the session may write to is writable.
	mounts := bufio.NewScanner(strings.NewReader(Output(w.Do("cat /proc/self/mounts"))))
	writable := map[string]bool{"/workspace": true, "/tmp": true, "/mnt/session": true, "/mnt/memory": true, "/run": true, "/run/berth": true, "/home": true, "/home/agent": true, "/dev/shm": true, "/proc": true, "/dev/pts": true}
	for mounts.Scan() {
		f := strings.Fields(mounts.Text())
		if len(f) < 4 {
			continue
		}
		opts := "," + f[3] + ","
		if strings.Contains(opts, ",rw,") && !writable[f[1]] && !strings.HasPrefix(f[1], "/dev/") {
			if r := w.Do("[ -w " + f[1] + " ] && [ ! -c " + f[1] + " ]"); r.ExitCode == 0 {
				t.Errorf("%s is writable: %s", f[1], f[3])
			}
		}
		if d.Name() == "docker" {
			continue // its daemon gives binds no such flags: no_new_privs and the lack of every capability stand in for them
		}
		if !strings.Contains(opts, ",nosuid,") || !strings.HasPrefix(f[1], "/dev/") && f[1] != "/proc/keys" && !strings.Contains(opts, ",nodev,") {
			t.Errorf("%s is mounted %s", f[1], f[3])
		}
	}
}

func testNeighbour(t *testing.T, d sandbox.Driver) {
	a := Start(t, d, nil)
	b := Start(t, d, nil)
	stay := Nap()
	a.Want("echo private >/workspace/a; echo private >/dev/shm/a; echo private >/tmp/a; echo private >/home/agent/a; sleep "+stay+" &", "", toolset.Exited, 0)
	b.Want("cat /workspace/a /dev/shm/a /tmp/a /home/agent/a 2>&-; ls /proc/*/root"+a.Spec.Tree+" "+a.Spec.Tree+" 2>&-; true", "", toolset.Exited, 0)
	if out := Output(b.Do("cat /proc/*/mountinfo /proc/*/environ 2>/dev/null | tr '\\0' '\\n'")); strings.Contains(out, a.Spec.SessionID+"/") || strings.Contains(out, a.Spec.Dir) {
		t.Error("the neighbour's name is seen")
	}
	a.reach(stay, 1)
	b.Want("kill -9 -1 2>&-; true", "", toolset.Exited, 0)
	a.Want("cat a; jobs -r | wc -l", "private\n1\n", toolset.Exited, 0)
	if a.Record().Spec.Tree == b.Record().Spec.Tree {
		t.Fatal("both have one tree")
	}
}

func testNetwork(t *testing.T, d sandbox.Driver) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reached := make(chan string, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			reached <- c.RemoteAddr().String()
			c.Close()
		}
	}()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	abstract, err := net.Listen("unix", "@berth-test-"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	w := Start(t, d, nil)
	targets := []string{"127.0.0.1/" + port, "169.254.169.254/80", "1.1.1.1/53", "10.0.0.1/80"}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			targets = append(targets, n.IP.String()+"/"+port)
		}
	}
	for _, target := range targets {
		w.Want("(exec 3<>/dev/tcp/"+target+") 2>/dev/null", "", toolset.Exited, 1)
	}
	w.Want("(exec 3<>/dev/tcp/localhost/"+port+") 2>/dev/null; getent hosts example.com 2>&-", "", toolset.Exited, 2)
	w.Want("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; tail -n +2 /proc/net/route", "lo\n", toolset.Exited, 0)
	if out := Output(w.Do("cat /proc/net/unix")); strings.Contains(out, "berth-test") {
		t.Error("the host's abstract sockets are seen")
	}
	select {
	case who := <-reached:
		t.Errorf("the host was reached from %s", who)
	default:
	}
}
