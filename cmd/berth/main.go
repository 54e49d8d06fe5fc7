// Command berth is both halves of self-hosted Managed Agents: a control plane
// and a worker, and the verbs to drive them. Each verb has a file of its own
// here; cli.go lists them.
package main

import (
	"os"

	"github.com/berthdev/berth/internal/child"
)

func main() {
	child.Main() // on the far side of a re-exec it does not return
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
