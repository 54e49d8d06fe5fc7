package app

import (
	"net"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/metrics"
)

// show answers at addr with how the worker does, until hide.
func (h *workerHalf) show(addr string, woken bool) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return &config.Error{Problem: "--metrics-addr: " + err.Error(), Cure: "give an address of this machine whose port is free, such as 127.0.0.1:9400"}
	}
	source := metrics.Source{
		Status: h.worker.Status, Woken: woken,
		Sandboxes: func() metrics.Sandboxes { return metrics.Sandboxes{Live: h.keeper.Live(), Ready: h.keeper.Ready()} },
	}
	if h.egress != nil {
		source.Egress = func() metrics.Egress {
			s := h.egress.Stats()
			return metrics.Egress{Allowed: s.Allowed, Refused: s.Refused, Failed: s.Failed, Sent: s.Sent, Received: s.Received}
		}
	}
	h.seen = metrics.Serve(l, h.counts, source, h.log)
	h.log.Info("metrics and a status page", "url", "http://"+l.Addr().String()+"/")
	return nil
}

func (h *workerHalf) hide() {
	if h.seen == nil {
		return
	}
	if err := h.seen.Close(); err != nil {
		h.log.Warn("the status page did not close well", "err", err)
	}
}
