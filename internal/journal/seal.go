package journal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
)

// sealer encrypts secrets that lie on disk. A nil sealer keeps none.
type sealer struct{ aead cipher.AEAD }

// newSealer derives the key from one that is not on disk; "" is nil.
func newSealer(key string) (*sealer, error) {
	if key == "" {
		return nil, nil
	}
	derived, err := hkdf.Key(sha256.New, []byte(key), nil, "berth journal 1", 32)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return &sealer{aead}, nil
}

// close seals a secret for an item; nil when it is not to be kept.
func (s *sealer) close(item, secret string) []byte {
	if s == nil {
		return nil
	}
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce)
	return s.aead.Seal(nonce, nonce, []byte(secret), []byte(item))
}

// open gives an item's secret back.
func (s *sealer) open(item string, sealed []byte) (string, bool) {
	if s == nil || len(sealed) < s.aead.NonceSize() {
		return "", false
	}
	n := s.aead.NonceSize()
	secret, err := s.aead.Open(nil, sealed[:n], sealed[n:], []byte(item))
	return string(secret), err == nil
}
