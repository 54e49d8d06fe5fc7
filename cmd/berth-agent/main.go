//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command berth-agent is the first process of a sandbox: it holds the shell.
// It is started by Berth, never by a person. Its one busy thread needs no look
// at the host's limits on processors: two lines above spare it that.
package main

import "github.com/berthdev/berth/internal/child"

func main() { child.Agent() }
