// Command runsc is gVisor's runtime, built from its pinned module so that its
// dependencies stay out of Berth's own.
package main

import "gvisor.dev/gvisor/runsc/cli/maincli"

func main() { maincli.Main() }
