package child

import (
	"bytes"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

const (
	// defaultLimit is the limit of a command that names none.
	defaultLimit = 120 * time.Second
	// maxSeen is how many ids are remembered after their results are gone.
	maxSeen = 8192
	// quietTime is how long a command has to end before its output is looked
	// at: most do, and then it is read once.
	quietTime = time.Millisecond
)

// call is the running command.
type call struct {
	id       string
	limit    time.Duration
	nonce    string
	checking bool
	stream   bool
	text     string
	out      int // its output FIFO
	hung     bool
	quiet    time.Time // until then its output stays where it is, unless it is streamed
	got      *collector
	began    time.Time
	ticks    uint64 // boot time in clock ticks when it began, or nothing ran before
	deadline time.Time
}

// start begins a command.
func (a *agent) start(r agentwire.Run) error {
	if r.Limit <= 0 {
		r.Limit = defaultLimit
	}
	nonce, err := a.nonce()
	if err != nil {
		return err
	}
	a.call = &call{
		id: r.ID, limit: r.Limit, nonce: nonce, text: r.Text, stream: r.Stream, out: -1, got: newCollector(a.boot.OutputBytes),
		began: a.now, deadline: a.now.Add(r.Limit),
	}
	if k := a.shell.keeps; k == nil || !k.alone { // else all that runs, from now on, is the command's
		a.call.ticks = bootTicks()
	}
	if bytes.IndexByte([]byte(r.Text), 0) >= 0 {
		a.call.got.write([]byte("the command contains a NUL byte"))
		a.finish("incomplete", 0)
		return nil
	}
	if surelyWhole(r.Text) {
		return a.evaluate()
	}
	a.call.checking = true
	return a.shell.check(r.Text, nonce)
}

// evaluate has bash run the command.
func (a *agent) evaluate() error {
	k := a.shell.keeps
	k.heed(a.call.text)
	lonely := k != nil && (k.alone || a.lonely())
	out, err := a.shell.takeOutput(a.turn, lonely, a.room())
	if err != nil {
		return err
	}
	a.turn++
	a.call.out, a.call.quiet = out, a.now.Add(quietTime)
	return a.shell.run(a.call.text, a.call.nonce)
}

// collect reads once from the running command's output.
func (a *agent) collect() {
	c := a.call
	n, err := quickRead(a.shell.out[c.out].fd, a.room())
	if n > 0 {
		if c.got.total == 0 || n >= 64<<10 {
			if n >= 32<<10 {
				widen(a.shell.out[c.out].fd)
			}
		}
		a.take(a.buf[:n])
		return
	}
	if n == 0 && err == nil {
		c.hung = true // everybody has closed it; the report is on its way
	}
}

// take takes output of the running command.
func (a *agent) take(b []byte) {
	a.call.got.write(b)
	if a.call.stream {
		a.send(agentwire.KindOutput, agentwire.Output{ID: a.call.id, Data: b}.Encode())
	}
}

// readReport reads what bash says about the running command.
func (a *agent) readReport() error {
	c, nonce := a.call, ""
	if c != nil {
		nonce = c.nonce
	}
	said := a.shell.reports(a.room(), nonce)
	if len(said) == 0 || c == nil {
		return nil
	}
	a.report = append(a.report, said...)
	for {
		// The report is a mark and "CODE NONCE".
		at := bytes.Index(a.report, []byte(" "+nonce))
		if at < 0 {
			if len(a.report) > 64<<10 { // somebody else writes there
				a.report = append(a.report[:0], a.report[len(a.report)-1024:]...)
			}
			return nil
		}
		from := bytes.LastIndexByte(a.report[:at], reportByte[0]) + 1
		word, said := string(a.report[from:at]), a.report[:max(from-1, 0)]
		a.report = append([]byte(nil), a.report[at+len(nonce)+1:]...)
		if c.checking {
			return a.looked(said)
		}
		if code, err := strconv.Atoi(word); err == nil { // else bash shows what it reads
			a.ended(code)
			return nil
		}
	}
}

// looked goes on with a command that bash has looked at.
func (a *agent) looked(said []byte) (err error) {
	c := a.call
	c.checking = false
	if why := unfinished(said); why != "" {
		c.got.write([]byte(why))
		a.finish("incomplete", 0)
		return nil
	}
	if c.nonce, err = a.nonce(); err != nil { // the last one may come once more
		return err
	}
	return a.evaluate()
}

// ended takes the report that the running command has ended.
func (a *agent) ended(code int) {
	a.settle()
	a.readRest()
	// Then the command may not have begun. Where bash keeps its output, it is the
	// report that may have failed, though its file was made.
	if (code == 1 && a.call.got.total == 0 || a.shell.keeps != nil) && cramped(a.shell.pid) {
		a.call.got.write([]byte("bash: the shell may open too few files (ulimit -n) to run commands\n"))
		kill(a.shell.pid)
		return
	}
	a.finish("exited", code)
}

// unfinished gives bash's own words when it missed the end of something, ""
// when it found another fault or none: those show when the text is run.
func unfinished(said []byte) string {
	for _, mark := range []string{"unexpected EOF while looking for", "unexpected end of file", "delimited by end-of-file"} {
		if !bytes.Contains(said, []byte(mark)) {
			continue
		}
		said = bytes.ReplaceAll(bytes.TrimSpace(said), []byte("bash: "), nil)
		return string(said[:min(len(said), 1000)])
	}
	return ""
}

// readRest takes what is in the output FIFO now. What a job writes later is
// no part of the result.
func (a *agent) readRest() {
	c := a.call
	if c.out < 0 {
		return
	}
	for range maxRest {
		n, err := quickRead(a.shell.out[c.out].fd, a.room())
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			return
		}
		a.take(a.buf[:n])
		if n < readSize {
			return
		}
	}
}

// finish makes the running command's result and sends it, if anybody is there.
func (a *agent) finish(end string, code int) {
	c := a.call
	head, dropped, tail := c.got.result()
	if len(tail) > 0 {
		tail = a.shell.unechoed(tail)
	} else {
		head = a.shell.unechoed(head)
	}
	a.last = &agentwire.Result{
		ID: c.id, End: end, ExitCode: code, Head: head, Dropped: dropped, Tail: tail,
		Elapsed: a.now.Sub(c.began),
	}
	a.call = nil
	a.send(agentwire.KindResult, a.last.Encode())
	if c.out >= 0 {
		a.shell.leave(c.out, a.room())
	}
}

// cut ends the running command by force: everything it started is killed, and
// the shell is replaced.
func (a *agent) cut(end string) error {
	c := a.call
	kill(a.shell.pid)
	sweep(a.shell.pid, c.ticks, a.spares)
	a.buryShell()
	a.bury() // until then they count as processes
	a.readRest()
	a.finish(end, 0)
	return a.freshShell()
}

// nonce gives a number that nobody has seen.
func (a *agent) nonce() (string, error) {
	const size = 8
	if len(a.random) < size {
		a.random = make([]byte, 32*size)
		if err := random(a.random); err != nil {
			return "", err
		}
	}
	n := hexadecimal(a.random[:size])
	a.random = a.random[size:]
	return n, nil
}

// hexadecimal writes bytes as text; encoding/hex would bring fmt with it.
func hexadecimal(b []byte) string {
	const digits = "0123456789abcdef"
	s := make([]byte, 0, 2*len(b))
	for _, c := range b {
		s = append(s, digits[c>>4], digits[c&15])
	}
	return string(s)
}
