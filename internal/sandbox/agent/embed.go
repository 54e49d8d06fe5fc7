//go:build berth_agent

package agent

import _ "embed"

// embedded is the agent's program; the build puts it here first.
//
//go:embed berth-agent
var embedded []byte
