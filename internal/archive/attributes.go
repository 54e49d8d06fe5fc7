package archive

import (
	"archive/tar"
	"strings"
)

const (
	maxAttributes = 64  // of one member
	maxAttribute  = 255 // bytes of a name
	paxAttribute  = "SCHILY.xattr."
)

// attributes are a member's extended attributes that are kept: those of the user
// namespace, but for what an overlay would heed. Capabilities, lists of access and
// labels belong to users and policies of another machine.
func attributes(h *tar.Header) (map[string]string, error) {
	var kept map[string]string
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxAttribute)
		if !ok || !own(name) {
			continue
		}
		if len(name) > maxAttribute || strings.IndexByte(name, 0) >= 0 {
			return nil, bad(h.Name, "has an extended attribute with a name that no file can have")
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[name] = value
	}
	if len(kept) > maxAttributes {
		return nil, bad(h.Name, "has more than %d extended attributes", maxAttributes)
	}
	return kept, nil
}

// own says whether an attribute is kept.
func own(name string) bool {
	return strings.HasPrefix(name, "user.") && name != "user." && !strings.HasPrefix(name, "user.overlay.")
}
