// Command berth-agent is the first process of a sandbox: it holds the shell.
// It is started by Berth, never by a person.
package main

import "github.com/berthdev/berth/internal/child"

func main() { child.Agent() }
