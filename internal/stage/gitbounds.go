package stage

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Before 2.37 git cannot be told which address to dial.
const oldestGit = "2.37"

const (
	// atOnce is how many repositories a worker fetches at a time: each may
	// take all of its bounds.
	atOnce = 2
	// gitMemory is what one process of git may have; less on a small machine.
	gitMemory = 1 << 30
	// gitTime is how long one process of git may use a processor.
	gitTime = 5 * time.Minute
)

// gitPath is where git finds its helpers.
const gitPath = "PATH=/usr/local/bin:/usr/bin:/bin"

// hostGit is a machine's git.
type hostGit struct{ path, version string }

// Git says which git of this machine repositories are fetched with. Its error
// says why none can be, with the cure.
func Git(ctx context.Context) (string, error) {
	g, err := findGit(ctx)
	return g.version, err
}

func findGit(ctx context.Context) (hostGit, error) {
	path, err := exec.LookPath("git")
	if err != nil {
		return hostGit{}, errors.New("the worker's host has no git; install git " + oldestGit + " or newer there")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "version")
	cmd.Env = []string{gitPath, "LC_ALL=C"}
	out, err := cmd.Output()
	words := strings.Fields(string(out))
	if err != nil || len(words) < 3 {
		return hostGit{}, fmt.Errorf("the git of the worker's host does not tell its version; install git %s or newer there", oldestGit)
	}
	g := hostGit{path, words[2]}
	var major, minor int
	if _, err := fmt.Sscanf(g.version, "%d.%d", &major, &minor); err != nil || major < 2 || major == 2 && minor < 37 {
		return g, fmt.Errorf("the worker's host has git %.40q, which cannot be held to the address that was checked; install git %s or newer there", g.version, oldestGit)
	}
	return g, nil
}

// bounds are what one process of git may use: what it reads is a stranger's.
type bounds struct {
	memory int64         // bytes of its address space; 0 for no bound
	time   time.Duration // of a processor
	file   int64         // bytes of any file that it writes
}

// script has a shell set the bounds and become git, $0.
func (b bounds) script() string {
	seconds := max(int64(b.time/time.Second), 1)
	s := "{ echo 800 >/proc/self/oom_score_adj; } 2>/dev/null; " + // before the worker, when memory is short
		"trap '' XFSZ; " + // a write fails and git says so
		fmt.Sprintf("ulimit -f %d && ulimit -S -t %d && ulimit -H -t %d && ", b.file/512+1, seconds, seconds+5)
	if b.memory > 0 {
		s += fmt.Sprintf("ulimit -v %d && ", b.memory>>10)
	}
	return s + `exec "$0" "$@"`
}

// reached says which bound git failed at, nil for none.
func (b bounds) reached(said string) error {
	for line := range strings.Lines(said) {
		switch {
		case !strings.HasPrefix(line, "fatal: ") && !strings.HasPrefix(line, "error: "): // it may be the server's
		case strings.Contains(line, "Out of memory"), strings.Contains(line, "Cannot allocate memory"):
			return refused("it takes more memory than git is given here, %d MiB", b.memory>>20)
		case strings.Contains(line, "File too large"):
			return refused("it is larger than what the worker takes for one session (--input-bytes)")
		}
	}
	if lastComplaint(said) == "fetch-pack: invalid index-pack output" && strings.Count(said, "fatal: ") == 1 { // which was killed
		return refused("git does not get through it in %s of a processor's time", b.time)
	}
	return nil
}
