package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unicode/utf8"
)

const receiptName = "receipt.json"

// Bounds of a receipt on disk.
const (
	maxReceipt = 256 << 10
	maxChecks  = 500
	maxWord    = 8 << 10
)

// WriteReceipt puts a receipt in a sandbox's folder, in one step. Like the
// record it is not synced.
func WriteReceipt(dir string, r Receipt) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("sandbox: receipt: %w", err)
	}
	if err := r.check(len(b)); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, receiptName), b); err != nil {
		return fmt.Errorf("sandbox: receipt: %w", err)
	}
	return nil
}

// ReadReceipt reads the receipt in a sandbox's folder; fs.ErrNotExist when
// there is none. That of a sandbox that was ready stays as it was written when a
// session takes it that has the folder's name.
func ReadReceipt(dir string) (Receipt, error) {
	f, err := os.Open(filepath.Join(dir, receiptName))
	if err != nil {
		return Receipt{}, fmt.Errorf("sandbox: receipt: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxReceipt+1))
	if err != nil {
		return Receipt{}, fmt.Errorf("sandbox: receipt: %w", err)
	}
	r, err := ParseReceipt(b)
	if folder := filepath.Base(dir); err == nil && nobodys(r.Session) && Folder(folder) == folder {
		r.Session = folder
	}
	return r, err
}

// ParseReceipt reads a receipt strictly: unknown members, anything after it,
// and more than a receipt can hold are refused.
func ParseReceipt(b []byte) (Receipt, error) {
	if len(b) > maxReceipt {
		return Receipt{}, errLarge
	}
	if !utf8.Valid(b) {
		return Receipt{}, errors.New("sandbox: receipt: not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var r Receipt
	if err := dec.Decode(&r); err != nil {
		return Receipt{}, fmt.Errorf("sandbox: receipt: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Receipt{}, errors.New("sandbox: receipt: something follows it")
	}
	if err := r.check(len(b)); err != nil {
		return Receipt{}, err
	}
	return r, nil
}

var errLarge = errors.New("sandbox: receipt: too large")

// check holds a receipt that takes size bytes to its bounds.
func (r Receipt) check(size int) error {
	words := []string{r.Session, r.Driver, r.Version, r.Policy}
	for _, c := range r.Checks {
		words = append(words, c.Name, c.Promised, c.Found)
	}
	for _, l := range append(append([]Limit(nil), r.Enforced...), r.Left...) {
		words = append(words, string(l))
	}
	for _, w := range words {
		if len(w) > maxWord {
			return errors.New("sandbox: receipt: a text in it is too long")
		}
	}
	switch {
	case size > maxReceipt:
		return errLarge
	case r.Session == "" || r.Driver == "" || r.At.IsZero():
		return errors.New("sandbox: receipt: it names no session, driver or time")
	case len(r.Checks) > maxChecks || len(r.Enforced) > 20 || len(r.Left) > 20:
		return errors.New("sandbox: receipt: too many entries")
	}
	return nil
}
