package app

import (
	"context"
	"net/http"
	"time"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/worker"
)

const (
	deliveryTime = 15 * time.Second // in which a delivery must have come in and been answered
	deliveryEnd  = 5 * time.Second  // for those that run when the worker stops
)

// WorkerWebhook is WorkerPoll that empties the queue at its start and whenever
// a delivery comes in. ready is called once with the address in use.
func WorkerWebhook(taking, working context.Context, c WorkerConfig, at config.Webhook, ready func(url string)) error {
	keys, err := at.Keys()
	if err != nil {
		return err
	}
	hook, err := worker.NewWebhook(worker.WebhookConfig{Secrets: keys, Logger: c.Log})
	if err != nil {
		return &config.Error{Problem: "ANTHROPIC_WEBHOOK_SIGNING_KEY: " + err.Error(), Cure: "give the keys as they were shown, with commas between them"}
	}
	if c.Replace {
		return &config.Error{Problem: "--replace cannot take over a webhook's address", Cure: "stop the running worker first, or serve the queue with worker poll"}
	}
	l, err := listen(at.Addr)
	if err != nil {
		return err
	}
	c.Wake, c.Sweep = hook.Wake(), orForever(at.Sweep)
	s := serve(deliveries(taking, hook), c.Log, l)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(working), deliveryEnd)
		defer cancel()
		s.stop(ctx)
	}()
	ready(baseURL(l))
	return WorkerPoll(taking, working, c)
}

// deliveries bounds each delivery's time, and refuses those that nobody would
// act on any more: they are sent again.
func deliveries(taking context.Context, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc, limit := http.NewResponseController(w), time.Now().Add(deliveryTime)
		if rc.SetReadDeadline(limit) != nil || rc.SetWriteDeadline(limit) != nil {
			panic(http.ErrAbortHandler)
		}
		if taking.Err() != nil {
			http.Error(w, "the worker is stopping", http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	})
}
