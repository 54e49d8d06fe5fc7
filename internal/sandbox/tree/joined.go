package tree

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/berthdev/berth/toolset"
)

// joined is a tree with other directories of the host in the place of some of
// its own, as the sandbox mounts them.
type joined struct {
	tree  hold
	parts []part // the longest paths first
}

// part stands at a path relative to the tree's root.
type part struct {
	at string
	hold
}

func (j *joined) sort() {
	slices.SortFunc(j.parts, func(a, b part) int { return cmp.Compare(len(b.at), len(a.at)) })
}

func (j *joined) of(rel string) (hold, string) {
	for _, p := range j.parts {
		if rel == p.at {
			return p.hold, "."
		}
		if rest, ok := strings.CutPrefix(rel, p.at+"/"); ok {
			return p.hold, rest
		}
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

func (j *joined) remove(rel string, dir bool) error {
	h, rel := j.of(rel)
	return h.remove(rel, dir)
}

func (j *joined) list(rel string) (listing, error) {
	h, rel := j.of(rel)
	return h.list(rel)
}

func (j *joined) root(rel string) (*os.Root, error) {
	h, rel := j.of(rel)
	return h.root(rel)
}

func (j *joined) close() error {
	err := j.tree.close()
	for _, p := range j.parts {
		err = errors.Join(err, p.close())
	}
	return err
}
