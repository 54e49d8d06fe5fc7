package command

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/sandbox/agent"
)

const (
	// crossTime bounds the way of the agent to the far side, which may have to
	// be started first.
	crossTime = 3 * time.Minute
	// maxNoise is what a far side may print before the shell listens.
	maxNoise = 256 << 10
	// maxSaid is how much of the command's complaints is kept.
	maxSaid = 2 << 10
)

// pipe is a running command as a connection.
type pipe struct {
	cmd  *exec.Cmd
	in   *os.File // to the command
	out  *os.File // from it
	read *bufio.Reader
	gone chan struct{} // closed when the command has ended and was collected

	mu    sync.Mutex
	stray []byte // the end of what it said on standard error
}

// run starts a command. Its environment is this process's, for the sake of its
// own credentials; the far side gets none of it.
func run(words []string) (*pipe, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("command: %w", err), inR.Close(), inW.Close())
	}
	p := &pipe{cmd: exec.Command(words[0], words[1:]...), in: inW, out: outR, read: bufio.NewReader(outR), gone: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = inR, outW, (*complaints)(p)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = time.Second // what it left behind may hold its standard error
	err = p.cmd.Start()
	inR.Close()
	outW.Close()
	if err != nil {
		p.in.Close()
		p.out.Close()
		return nil, fmt.Errorf("command: start %s: %w", words[0], err)
	}
	go func() { // end waits for it
		_ = p.cmd.Wait()
		close(p.gone)
	}()
	return p, nil
}

// complaints keeps the end of what is written to it.
type complaints pipe

func (c *complaints) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stray = append(c.stray, b...)
	if len(c.stray) > maxSaid {
		c.stray = append(c.stray[:0], c.stray[len(c.stray)-maxSaid:]...)
	}
	return len(b), nil
}

// said is what the command complained about, in one line.
func (p *pipe) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(strings.FieldsFunc(string(p.stray), func(r rune) bool { return r == '\n' || r == '\r' || r < ' ' }), "; ")
}

// end closes the pipe and waits for the command to end, by force when it takes
// longer than patience.
func (p *pipe) end(patience time.Duration) {
	p.in.Close()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.gone:
	case <-t.C:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it, and what it left behind
	<-p.gone
	p.out.Close()
}

// far is what there is at the far side.
type far struct {
	system, machine             string // as uname has them
	dir, bash, home, user, path string
}

// script is what the shell at the far side is told first: find a directory
// that takes a program, say what is there, take the agent, become it. What it
// prints in answer stands between marks that nobody else knows; nothing is
// sent ahead of an answer, because not every shell leaves what it has read to
// the programs it starts.
const script = `umask 077; d=; for t in "${TMPDIR:-/tmp}" /tmp /var/tmp /dev/shm "${HOME:-/}"; do ` +
	`d=$(mktemp -d "$t/berth.XXXXXXXX" 2>/dev/null) || { d=; continue; }; ` +
	`printf '#!/bin/sh\nexit 0\n' >"$d/berth-agent" && chmod 700 "$d/berth-agent" && "$d/berth-agent" 2>/dev/null && break; rm -rf "$d"; d=; done; ` +
	`[ -n "$d" ] || { echo 'no directory takes a program' >&2; exit 1; }; ` +
	`b=$(command -v bash) || { echo 'there is no bash' >&2; rm -rf "$d"; exit 1; }; ` +
	`printf '%s\n' MARK "$(uname -s)" "$(uname -m)" "$d" "$b" "${HOME:-/}" "${LOGNAME:-agent}" "$PATH" MARK; ` +
	`rm -f "$d/berth-agent"; head -c SIZE >"$d/berth-agent" && chmod 700 "$d/berth-agent" && echo MARK && exec env -i "$d/berth-agent" stdio "$d"; rm -rf "$d"` + "\n"

// cross sends the agent over and starts it.
func (p *pipe) cross(ctx context.Context, program *agent.Program) (f far, err error) {
	ctx, cancel := context.WithTimeout(ctx, crossTime)
	defer cancel()
	// Whoever waits at the pipe feels the context's end.
	stop := context.AfterFunc(ctx, func() { p.in.Close(); p.out.SetReadDeadline(time.Now()) })
	defer func() {
		if !stop() && ctx.Err() != nil {
			err = fmt.Errorf("command: the far side does not come up: %w", context.Cause(ctx))
		}
	}()
	body, err := program.Bytes()
	if err != nil {
		return f, err
	}
	mark := "berth-" + rand.Text()
	text := strings.NewReplacer("MARK", mark, "SIZE", strconv.Itoa(len(body))).Replace(script)
	if _, err := io.WriteString(p.in, text); err != nil {
		return f, fmt.Errorf("command: the far side ended before the agent was there: %w", err)
	}
	if err := p.until(mark); err != nil {
		return f, err
	}
	for _, s := range []*string{&f.system, &f.machine, &f.dir, &f.bash, &f.home, &f.user, &f.path} {
		if *s, err = p.line(); err != nil {
			return f, err
		}
	}
	if end, err := p.line(); err != nil || end != mark {
		return f, errors.New("command: the far side describes itself in a way that makes no sense")
	}
	if err := f.check(); err != nil {
		return f, err
	}
	if _, err := p.in.Write(body); err != nil {
		return f, fmt.Errorf("command: send the agent over: %w", err)
	}
	return f, p.until(mark)
}

// check says whether the agent can run there.
func (f far) check() error {
	machines := map[string]string{"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x"}
	if !strings.EqualFold(f.system, runtime.GOOS) || machines[f.machine] != runtime.GOARCH {
		return fmt.Errorf("command: the far side is %s on %s, and the agent at hand is for %s on %s: run a worker of that kind", f.system, f.machine, runtime.GOOS, runtime.GOARCH)
	}
	for _, s := range []string{f.dir, f.bash, f.home} {
		if !path.IsAbs(s) || len(s) > 1000 {
			return fmt.Errorf("command: the far side gives %q for a path", s)
		}
	}
	return nil
}

// line reads a line of bounded length.
func (p *pipe) line() (string, error) {
	b, err := p.read.ReadSlice('\n')
	if err != nil {
		return "", fmt.Errorf("command: the far side ended or babbles before the agent was there: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// until passes over everything up to a line that is the mark.
func (p *pipe) until(mark string) error {
	for noise := 0; noise < maxNoise; {
		s, err := p.line()
		if err != nil {
			return err
		}
		if strings.HasSuffix(s, mark) {
			return nil
		}
		noise += len(s) + 1
	}
	return errors.New("command: the far side prints without an end: its standard output must be a shell's and nothing else")
}

// A pipe is a net.Conn, for the agent's frames.

func (p *pipe) Read(b []byte) (int, error)  { return p.read.Read(b) }
func (p *pipe) Write(b []byte) (int, error) { return p.in.Write(b) }

// Close closes the way to the far side; what it still says comes to an end by
// itself, or by end.
func (p *pipe) Close() error {
	return errors.Join(p.in.Close(), p.out.SetReadDeadline(time.Now()))
}

func (p *pipe) LocalAddr() net.Addr  { return addr{} }
func (p *pipe) RemoteAddr() net.Addr { return addr{} }

func (p *pipe) SetDeadline(t time.Time) error {
	return errors.Join(p.SetReadDeadline(t), p.SetWriteDeadline(t))
}
func (p *pipe) SetReadDeadline(t time.Time) error  { return p.out.SetReadDeadline(t) }
func (p *pipe) SetWriteDeadline(t time.Time) error { return p.in.SetWriteDeadline(t) }

type addr struct{}

func (addr) Network() string { return "pipe" }
func (addr) String() string  { return "pipe" }
