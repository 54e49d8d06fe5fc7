package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// memo says which image an archive held when it was last unpacked, so that it
// need not be read again as long as it is the same file.
type memo struct {
	Size   int64     `json:"size"`
	Time   time.Time `json:"time"`
	Digest string    `json:"digest"`
	Env    []string  `json:"env,omitempty"`
}

// errForgotten says that what a memo names has been removed.
var errForgotten = errors.New("the image is not there any more")

func (s *Store) memoName(ref string) string {
	if abs, err := filepath.Abs(ref); err == nil {
		ref = abs
	}
	sum := sha256.Sum256([]byte(ref))
	return filepath.Join(s.cfg.Dir, "archives", hex.EncodeToString(sum[:]))
}

// recall gives what is remembered of an archive, if it is still that file.
func (s *Store) recall(ref string) (m memo, ok bool) {
	if !isPath(ref) {
		return m, false
	}
	_, _, info, err := locate(ref)
	if err != nil || !info.Mode().IsRegular() {
		return m, false
	}
	b, err := os.ReadFile(s.memoName(ref))
	if err != nil || json.Unmarshal(b, &m) != nil {
		return m, false
	}
	return m, m.Size == info.Size() && m.Time.Equal(info.ModTime()) && len(m.Digest) == len("sha256:")+64
}

// remember keeps what an archive holds. What cannot be kept is found anew the
// next time.
func (s *Store) remember(ref string, src *source) {
	if src.file == nil {
		return
	}
	b, err := json.Marshal(memo{Size: src.file.Size(), Time: src.file.ModTime(), Digest: src.digest, Env: src.env})
	if err != nil {
		return
	}
	name := s.memoName(ref)
	tmp, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return
	}
	_, err = tmp.Write(b)
	if errors.Join(err, tmp.Close()) != nil || os.Rename(tmp.Name(), name) != nil {
		os.Remove(tmp.Name())
	}
}
