package toolset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

type bashInput struct {
	Command   string  `json:"command"`
	Restart   bool    `json:"restart"`
	TimeoutMS integer `json:"timeout_ms"`
}

func decodeBash(input json.RawMessage) (bashInput, error) {
	return decode[bashInput]("bash", input)
}

// timeout is the limit that a call asks for, within what it may ask for.
func (s *Set) timeout(in bashInput) time.Duration {
	if in.TimeoutMS <= 0 {
		return s.opts.Timeout
	}
	if int64(in.TimeoutMS) >= s.opts.MaxTimeout.Milliseconds() {
		return s.opts.MaxTimeout
	}
	return time.Duration(in.TimeoutMS) * time.Millisecond
}

func (s *Set) bash(ctx context.Context, id string, input json.RawMessage) outcome {
	in, err := decodeBash(input)
	if err != nil {
		return failf("%s", err)
	}
	if in.Restart {
		if err := s.host.Restart(ctx); err != nil {
			s.opts.Log.ErrorContext(ctx, "the shell could not be restarted", "call", id, "error", err)
			return failf("bash: the shell could not be restarted")
		}
		if in.Command == "" {
			return ok("bash session restarted")
		}
	}
	switch {
	case in.Command == "":
		return failf("bash: command is required")
	case strings.IndexByte(in.Command, 0) >= 0:
		return failf("bash: command holds a NUL byte, which no shell takes")
	}
	r, err := s.host.Bash(ctx, Command{ID: id, Text: in.Command, Timeout: s.timeout(in)})
	if err != nil {
		if ctx.Err() != nil {
			return failf("%s", interrupted)
		}
		s.opts.Log.ErrorContext(ctx, "the sandbox failed", "call", id, "error", err)
		var said *Failure
		if errors.As(err, &said) {
			return failf("bash: %s", said.Text)
		}
		return failf("bash: the sandbox failed while the command ran; it may have run in part")
	}
	return bashOutcome(r, s.host.Workdir())
}

const interrupted = "[interrupted: the command was stopped before its end and may have done part of its work]"

// bashOutcome words a command's end for the model.
func bashOutcome(r Result, workdir string) outcome {
	var b strings.Builder
	b.WriteString(output(r))
	line := func(format string, args ...any) {
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, format, args...)
	}
	if r.OOM {
		line("[out of memory: the memory limit was reached and a process was killed]")
	}
	failed := true
	switch r.End {
	case Exited:
		if failed = r.ExitCode != 0; failed {
			line("exit code: %d", r.ExitCode)
		}
	case ShellExited:
		failed = r.ExitCode != 0
		line("exit code: %d", r.ExitCode)
		line("[the command ended the shell; the next one gets a fresh shell in %s, without the variables and functions set so far]", workdir)
	case TimedOut:
		line("[timed out]")
		line("session restarted after timeout")
	case Interrupted:
		line(interrupted)
	case Incomplete:
		line("bash: the command is not complete (look for an open quote, bracket, here-document or block); nothing was run")
	case Refused:
	default:
		line("bash: the command ended in an unknown way (%q)", string(r.End))
	}
	return outcome{text: b.String(), isError: failed || r.OOM && r.End != Exited}
}

// maxPart bounds each end of an output, however much a host keeps.
const maxPart = 512 << 10

// csi are the terminal sequences for colours, cursor and titles.
var csi = regexp.MustCompile(`\x1b\[[0-9;:<=>?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)`)

// output puts the kept parts of a command's output together, with a line that
// says how much is missing between them, and takes terminal sequences and
// line ends at its end out.
func output(r Result) string {
	head, tail, dropped := r.Head, r.Tail, r.Dropped
	if over := len(head) - maxPart; over > 0 {
		if dropped == 0 { // the whole of it came as head
			head, tail = head[:maxPart], append(head[maxPart:len(head):len(head)], tail...)
			over = 0
		} else {
			head = head[:maxPart]
		}
		dropped += int64(over)
	}
	if over := len(tail) - maxPart; over > 0 {
		tail = tail[over:]
		dropped += int64(over)
	}
	if dropped > 0 {
		h, t := wholeEnd(head), wholeStart(tail)
		dropped += int64(len(head) - len(h) + len(tail) - len(t))
		head = fmt.Appendf(bytes.TrimSuffix(clean(h), []byte("\n")), "\n[output truncated: %d bytes left out here]\n", dropped)
		tail = clean(t)
	} else {
		head, tail = clean(append(head[:len(head):len(head)], tail...)), nil
	}
	return strings.TrimRight(string(head)+string(tail), "\r\n")
}

func clean(b []byte) []byte {
	if bytes.IndexByte(b, 0x1b) < 0 {
		return b
	}
	return csi.ReplaceAll(b, nil)
}

// wholeEnd cuts a character off that lost its end, wholeStart one that lost
// its beginning.
func wholeEnd(b []byte) []byte {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return b[:len(b)-i]
			}
			break
		}
	}
	return b
}

func wholeStart(b []byte) []byte {
	for i := 0; i < utf8.UTFMax-1 && len(b) > 0 && !utf8.RuneStart(b[0]); i++ {
		b = b[1:]
	}
	return b
}
