// Package app wires the halves: configuration in, running program out.
package app
