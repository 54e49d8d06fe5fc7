// Command berth is both halves of self-hosted Managed Agents: a control plane
// and a worker, and the verbs to drive them. Each verb has a file of its own
// here; cli.go lists them.
package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/berthdev/berth/internal/child"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/entry"
	"github.com/berthdev/berth/internal/slack"
)

func main() {
	child.Main() // on the far side of a re-exec it does not return
	if slices.Contains(os.Args[1:], "worker") {
		if err := entry.Hide(config.Environ(), config.SecretFlags); err != nil {
			fmt.Fprintln(os.Stderr, "berth:", err)
			os.Exit(1)
		}
		slack.Allow(os.Getpid(), 0, slack.Late)
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
