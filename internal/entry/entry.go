// Package entry makes a process that holds credentials fit to start others:
// its environment and its command line, which the kernel shows to its
// neighbours for as long as it lives, are emptied by a re-exec that carries
// both in memory, its memory cannot be read by processes of the same user, and
// as the first process of a container it leaves the work to a child, passes
// signals on and reaps.
package entry

import (
	"slices"
	"strings"
)

// Marker names the variable by which a re-exec is told of its descriptor.
const Marker = "BERTH_ENTRY"

// takeFlags moves the values of flags to the variables that mean the same, so
// that they are on no command line. A flag wins over its variable.
func takeFlags(args, env []string, variables map[string]string) (rest, all []string) {
	all = env
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			return append(rest, args[i:]...), all
		}
		flag, value, joined := strings.Cut(args[i], "=")
		variable := variables[flag]
		if variable == "" || !joined && i+1 == len(args) {
			rest = append(rest, args[i])
			continue
		}
		if !joined {
			i++
			value = args[i]
		}
		all = append(all, variable+"="+value)
	}
	return rest, all
}

// keep says whether the Go runtime reads a variable before main does.
func keep(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return slices.Contains([]string{"GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK"}, name)
}
