// Command berth is both halves of self-hosted Managed Agents: a control plane
// and a worker, and the verbs to drive them. Each verb has a file of its own
// here; cli.go lists them.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
