package worker

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	webhookWindow  = 300 // seconds that a delivery's timestamp may be away, either way
	webhookBody    = 1 << 20
	webhookID      = 256     // bytes
	webhookIDs     = 1 << 14 // remembered
	webhookKey     = 16      // bytes of a key, at least
	webhookWork    = "session.status_run_started"
	webhookReclaim = 2 * time.Second // of polls after a delivery, see Config.Reclaim
)

// WebhookConfig says whose deliveries a Webhook takes.
type WebhookConfig struct {
	// Secrets are the endpoint's signing keys (whsec_…): several while one
	// replaces another. At least one is required.
	Secrets []string
	// Logger is told of refused deliveries; nil discards it.
	Logger *slog.Logger
}

// Webhook takes the control plane's deliveries and wakes a Worker or a Poller
// whose Wake is Webhook.Wake. It answers at once and has no part in the
// background. Safe for concurrent use.
type Webhook struct {
	keys [][]byte
	log  *slog.Logger
	wake chan struct{}

	mu   sync.Mutex
	seen map[string]bool
	old  []sighting // oldest first
}

type sighting struct {
	id   string
	till time.Time // no timestamp that it can have come with is taken from then on
}

// NewWebhook checks the keys and makes a Webhook.
func NewWebhook(cfg WebhookConfig) (*Webhook, error) {
	h := &Webhook{log: cfg.Logger, wake: make(chan struct{}, 1), seen: map[string]bool{}}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Secrets) == 0 {
		return nil, errors.New("worker: WebhookConfig.Secrets is empty")
	}
	for i, s := range cfg.Secrets {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "whsec_"))
		if err != nil || len(key) < webhookKey {
			return nil, fmt.Errorf("worker: webhook signing key %d is not whsec_ and base64 of at least %d bytes", i+1, webhookKey)
		}
		h.keys = append(h.keys, key)
	}
	return h, nil
}

// Wake has a value when the queue should be polled until it is empty.
// Deliveries that come before it is received are one.
func (h *Webhook) Wake() <-chan struct{} { return h.wake }

// ServeHTTP answers a delivery: 204 when it woke somebody, 200 with a word
// when there is nothing to do for it, 401 when it is not the control plane's.
func (h *Webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "webhook deliveries are POST requests", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, webhookBody))
	if err != nil {
		status := http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "the delivery could not be read", status)
		return
	}
	now := time.Now()
	id, err := h.verify(r.Header, body, now)
	if err != nil {
		h.log.Warn("a webhook delivery was refused", "error", err, "from", r.RemoteAddr)
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	var event struct {
		Data struct{ Type string } `json:"data"`
	}
	switch err := json.Unmarshal(body, &event); {
	case err != nil:
		http.Error(w, "the delivery is not JSON", http.StatusBadRequest)
	case event.Data.Type != webhookWork:
		io.WriteString(w, "ignored")
	case h.known(id, now):
		io.WriteString(w, "known")
	default:
		select {
		case h.wake <- struct{}{}:
		default:
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// verify checks a delivery as the Standard Webhooks specification says.
func (h *Webhook) verify(head http.Header, body []byte, now time.Time) (id string, err error) {
	id, stamp := head.Get("webhook-id"), head.Get("webhook-timestamp")
	if id == "" || len(id) > webhookID || stamp == "" {
		return "", errors.New("webhook-id or webhook-timestamp is missing or cannot be one")
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return "", errors.New("webhook-timestamp is not a number of seconds")
	}
	if age := now.Unix() - seconds; age > webhookWindow || age < -webhookWindow {
		return "", errors.New("webhook-timestamp is more than five minutes away")
	}
	var sums [][]byte
	for _, key := range h.keys {
		mac := hmac.New(sha256.New, key)
		io.WriteString(mac, id+"."+stamp+".")
		mac.Write(body)
		sums = append(sums, mac.Sum(nil))
	}
	for item := range strings.FieldsSeq(head.Get("webhook-signature")) {
		version, text, _ := strings.Cut(item, ",")
		given, err := base64.StdEncoding.DecodeString(text)
		if version != "v1" || err != nil {
			continue
		}
		for _, sum := range sums {
			if hmac.Equal(given, sum) {
				return id, nil
			}
		}
	}
	return "", errors.New("webhook-signature does not match")
}

// known says whether a delivery was seen before, and remembers it for as long
// as its timestamp can be fresh. Beyond webhookIDs the oldest are forgotten.
func (h *Webhook) known(id string, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.old) > 0 && now.After(h.old[0].till) {
		h.forget()
	}
	if h.seen[id] {
		return true
	}
	if len(h.old) >= webhookIDs {
		h.forget()
	}
	h.seen[id] = true
	h.old = append(h.old, sighting{id, now.Add(2 * webhookWindow * time.Second)})
	return false
}

// forget drops the oldest id. Hold mu.
func (h *Webhook) forget() {
	delete(h.seen, h.old[0].id)
	h.old = h.old[1:]
}
