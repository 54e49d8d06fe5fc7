// Command run runs the tests and says plainly what was left out: a line for
// each package, the whole output of what failed, then every skipped test with
// its reason. Under CI=true a skipped test is a failure, unless its reason
// begins with "by design:".
//
//	go run ./test/run [-race] [-short] [-timeout D] [PACKAGE]...
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

type line struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

type skipped struct{ name, reason string }

func main() {
	race := flag.Bool("race", false, "with the race detector (needs a C compiler)")
	short := flag.Bool("short", false, "only the short form of long tests")
	timeout := flag.Duration("timeout", 15*time.Minute, "for each package")
	flag.Parse()
	pkgs := flag.Args()
	if len(pkgs) == 0 {
		pkgs = []string{"./..."}
	}
	args := []string{"test", "-json", "-p", "2", "-timeout", timeout.String()}
	if *race {
		args = append(args, "-race")
	}
	if *short {
		args = append(args, "-short")
	}
	os.Exit(run(append(args, pkgs...), os.Getenv("CI") == "true"))
}

func run(args []string, strict bool) int {
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		return 2
	}
	r := newReport(os.Stdout)
	in := bufio.NewScanner(out)
	in.Buffer(make([]byte, 1<<20), 64<<20)
	for in.Scan() {
		r.read(in.Bytes())
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "run:", err)
		return 2
	}
	return r.close(err != nil, strict)
}

type report struct {
	to             io.Writer
	output         map[string]*strings.Builder
	passed, failed int
	skips          []skipped
}

func newReport(to io.Writer) *report {
	return &report{to: to, output: map[string]*strings.Builder{}}
}

func (r *report) read(raw []byte) {
	var l line
	if json.Unmarshal(raw, &l) != nil {
		fmt.Fprintln(r.to, string(raw))
		return
	}
	key := l.Package + " " + l.Test
	out := r.output[key]
	if out == nil {
		out = &strings.Builder{}
		r.output[key] = out
	}
	switch l.Action {
	case "output", "build-output":
		out.WriteString(l.Output)
		if l.Action == "build-output" {
			fmt.Fprint(r.to, l.Output)
		}
		return
	case "pass":
		if l.Test == "" {
			fmt.Fprintf(r.to, "ok    %-60s %6.1fs\n", l.Package, l.Elapsed)
		} else {
			r.passed++
		}
	case "skip":
		if l.Test != "" {
			r.skips = append(r.skips, skipped{l.Package + " " + l.Test, reason(out.String())})
		}
	case "fail":
		if l.Test == "" {
			fmt.Fprintf(r.to, "FAIL  %-60s %6.1fs\n%s", l.Package, l.Elapsed, out)
			r.unfinished(l.Package)
		} else {
			r.failed++
			fmt.Fprintf(r.to, "--- FAIL: %s\n%s", key, out)
		}
	default:
		return
	}
	if l.Action != "fail" && strings.Contains(out.String(), "WARNING: DATA RACE") { // all that ran then have failed, and this one has what is to be known
		fmt.Fprintf(r.to, "--- RACE: %s\n%s", key, out)
	}
	delete(r.output, key)
}

// unfinished prints what tests of a package said that never ended: one of them
// hung or took the others with it.
func (r *report) unfinished(pkg string) {
	for key, out := range r.output {
		if test, ok := strings.CutPrefix(key, pkg+" "); ok && test != "" {
			fmt.Fprintf(r.to, "--- NEVER ENDED: %s\n%s", key, out)
			delete(r.output, key)
		}
	}
}

// reason is what the test said to Skip: the text behind "file.go:12: ".
func reason(output string) string {
	for l := range strings.Lines(output) {
		l = strings.TrimSpace(l)
		if _, text, ok := strings.Cut(l, ".go:"); ok {
			if _, text, ok = strings.Cut(text, ": "); ok {
				return text
			}
		}
	}
	return "no reason given"
}

func (r *report) close(failed, strict bool) int {
	bad := 0
	if len(r.skips) > 0 {
		fmt.Fprintln(r.to, "\nleft out:")
	}
	for _, s := range r.skips {
		fmt.Fprintf(r.to, "  %s: %s\n", s.name, s.reason)
		if !strings.HasPrefix(s.reason, "by design:") {
			bad++
		}
	}
	fmt.Fprintf(r.to, "\n%d passed, %d failed, %d skipped\n", r.passed, r.failed, len(r.skips))
	if failed || r.failed > 0 {
		return 1
	}
	if strict && bad > 0 {
		fmt.Fprintln(r.to, "CI=true: a test that is left out is a failure")
		return 1
	}
	return 0
}
