// Package view shows a directory of the host in a session's tree as a private
// copy-on-write view: an overlay that the supervisor mounts and goes through
// itself. What a session changes stays in its tree, and is there again when
// the view is mounted again.
package view

import "errors"

// ErrImpossible is Mount's answer where views cannot be had at all.
var ErrImpossible = errors.New("views of a directory need root, and Linux with overlayfs")

// dirName is the folder in a tree for what the session has changed.
const dirName = ".view"
