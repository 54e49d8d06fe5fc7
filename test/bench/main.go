// Command bench measures what the project promises about speed, prints each
// figure beside its bar and exits 1 when one is missed. Comparisons run the
// official Go SDK worker on the same server in the same run, alternating.
//
//	go run ./test/bench [-only PATTERN] [-markdown FILE]
//	go run ./test/bench -list
//
// It needs bin/berth (make build), root for the namespaces driver, and about
// six minutes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
)

// figure is one measured number beside its bar.
type figure struct {
	measure string
	got     string
	bar     string
	ok      bool
}

// row measures one row of a table; it gives one figure or more.
type row struct {
	name string
	run  func(context.Context) ([]figure, error)
}

var rows = []row{
	{"first call", firstCall},
	{"result to model", resultToModel},
	{"round trip", roundTrip},
	{"backlog open", backlogOpen},
	{"backlog archived", backlogArchived},
	{"sleepers", sleepers},
	{"claim by a worker", claim},
	{"hundred sleepers", manySleepers},
	{"attached idle", attachedIdle},
	{"worker start", workerStart},
	{"journal", journalCost},
	{"queue", queueAlone},
	{"streams", streams},
	{"idle", idle},
	{"sandbox start", sandboxStart},
	{"image start", imageStart},
	{"sandbox kill", sandboxKill},
	{"sandbox idle", sandboxIdle},
	{"sandbox true", sandboxTrue},
	{"sandbox flood", sandboxFlood},
	{"egress", egressLatency},
	{"staging", staging},
	{"collecting", collecting},
	{"grep", grepping},
	{"glob", globbing},
	{"gvisor start", gvisorStart},
	{"gvisor claim", gvisorClaim},
	{"gvisor true", gvisorTrue},
	{"gvisor idle", gvisorIdle},
	{"docker claim", dockerClaim},
	{"docker true", dockerTrue},
	{"docker run", dockerRun},
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "official-worker" {
		os.Exit(officialWorker())
	}
	if len(os.Args) > 2 && os.Args[1] == "egress-client" {
		os.Exit(egressClient(os.Args[2]))
	}
	only := flag.String("only", "", "rows whose name matches this regular expression, such as a word")
	list := flag.Bool("list", false, "print the rows' names and measure nothing")
	markdown := flag.String("markdown", "", "write the table to this file too")
	flag.Parse()
	if *list {
		for _, r := range rows {
			fmt.Println(r.name)
		}
		return
	}
	chosen, err := choose(rows, *only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(measure(ctx, chosen, *markdown))
}

// choose gives the rows whose names match a pattern, at least one.
func choose(rows []row, pattern string) (chosen []row, err error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if re.MatchString(r.name) {
			chosen = append(chosen, r)
		}
	}
	if chosen == nil {
		return nil, fmt.Errorf("-only %q matches no row; -list names them", pattern)
	}
	return chosen, nil
}

// measure prints each figure beside its bar and gives the exit code: 1 when one
// is missed.
func measure(ctx context.Context, rows []row, markdown string) int {
	fmt.Println(machine())
	var all []figure
	missed := false
	for _, r := range rows {
		figures, err := r.run(ctx)
		if err != nil {
			figures = append(figures, figure{measure: r.name, got: "failed: " + err.Error()})
		}
		for _, f := range figures {
			verdict := "ok"
			if !f.ok {
				verdict, missed = "MISS", true
			}
			fmt.Printf("%-4s  %-78s %-34s bar %s\n", verdict, f.measure, f.got, f.bar)
		}
		all = append(all, figures...)
	}
	if markdown != "" {
		if err := os.WriteFile(markdown, []byte(table(all)), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 2
		}
	}
	if missed {
		return 1
	}
	return 0
}

func table(figures []figure) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n| Measure | Measured | Bar | |\n|---|---|---|---|\n", machine())
	for _, f := range figures {
		verdict := "holds"
		if !f.ok {
			verdict = "**missed**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.measure, f.got, f.bar, verdict)
	}
	return b.String()
}

// machine names what the figures were measured on.
func machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d × %s, Linux %s, %s", runtime.NumCPU(), model, strings.TrimSpace(string(release)), runtime.Version())
}
