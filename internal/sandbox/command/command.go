// Package command runs a session wherever a command line leads: ssh to another
// machine, docker exec into a container, a cloud sandbox's own program. The
// command gives a pipe to a POSIX shell; through it the agent goes over, starts,
// and speaks. What isolates the session is what the command leads to: this
// driver itself promises nothing. See docs/design/0008-command.md.
package command

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
)

// Name is the driver's, in flags and records.
const Name = "command"

// Config says which command.
type Config struct {
	// Command is a command line whose standard input and output are those of a
	// POSIX shell at the far side; see Words.
	Command string
	// Program is the agent to send; nil means agent.Find's.
	Program *agent.Program
	// FetchTime bounds the fetching of a session's outputs at its end; 0 means
	// two minutes.
	FetchTime time.Duration
	// Log hears of what is worth a look; nil is silence.
	Log *slog.Logger
}

// Words splits a command line as a shell does with quotes and backslashes and
// nothing else: no variable, no pattern, no pipe.
func Words(line string) (words []string, err error) {
	var w strings.Builder
	begun, quote := false, rune(0)
	escaped := false
	for _, c := range line {
		switch {
		case escaped:
			if quote == '"' && c != '"' && c != '\\' {
				w.WriteByte('\\')
			}
			w.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, begun = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			w.WriteRune(c)
		case c == '\'' || c == '"':
			quote, begun = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if begun {
				words = append(words, w.String())
				w.Reset()
				begun = false
			}
		default:
			w.WriteRune(c)
			begun = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("the command line %q ends inside a quote", line)
	}
	if begun {
		words = append(words, w.String())
	}
	if len(words) == 0 {
		return nil, fmt.Errorf("there is no command")
	}
	return words, nil
}

// fill puts a session into the words of a command: {session} is its name, of
// letters, digits, ".", "_" and "-", and {tree} its folder on this machine.
func fill(words []string, spec sandbox.Spec) []string {
	r := strings.NewReplacer("{session}", sandbox.Folder(spec.SessionID), "{tree}", spec.Tree)
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = r.Replace(w)
	}
	return out
}
