package tree

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/berthdev/berth/toolset"
)

// joined is a tree with another directory of the host in the place of one of
// its own, as the sandbox mounts it.
type joined struct {
	tree  hold
	at    string // relative to the tree's root
	share hold
}

func (j *joined) of(rel string) (hold, string) {
	if rel == j.at {
		return j.share, "."
	}
	if rest, ok := strings.CutPrefix(rel, j.at+"/"); ok {
		return j.share, rest
	}
	return j.tree, rel
}

func (j *joined) lstat(rel string) (fs.FileInfo, error) {
	h, rel := j.of(rel)
	return h.lstat(rel)
}

func (j *joined) readlink(rel string) (string, error) {
	h, rel := j.of(rel)
	return h.readlink(rel)
}

func (j *joined) open(rel string) (toolset.File, error) {
	h, rel := j.of(rel)
	return h.open(rel)
}

func (j *joined) mkdir(rel string) error {
	h, rel := j.of(rel)
	return h.mkdir(rel)
}

func (j *joined) write(rel string, data []byte) error {
	h, rel := j.of(rel)
	return h.write(rel, data)
}

func (j *joined) list(rel string) (listing, error) {
	h, rel := j.of(rel)
	return h.list(rel)
}

func (j *joined) root(rel string) (*os.Root, error) {
	h, rel := j.of(rel)
	return h.root(rel)
}

func (j *joined) close() error { return errors.Join(j.tree.close(), j.share.close()) }
