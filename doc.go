// Package berth is the open, self-hosted implementation of Managed Agents
// with self-hosted sandboxes: one program that holds a control plane
// (environments are work queues, sessions are event logs, an agent loop calls
// a model and asks for tools) and a worker (it claims sessions and runs their
// tools in sandboxes).
//
// The module's public packages are
//
//   - api: the wire's requests, answers, events and errors, as data
//   - client: a typed client and event-stream reader for it
//   - toolset: the six built-in tools over a small Host interface
//   - worker: the environment worker as a library; worker/workertest is a
//     control plane in a box for tests of programs that embed it
//
// Everything else is internal. The binary is cmd/berth; ARCHITECTURE.md is
// the map.
package berth
