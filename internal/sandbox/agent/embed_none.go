//go:build !berth_agent

package agent

// embedded is the agent's program in a build with the tag berth_agent.
var embedded []byte
