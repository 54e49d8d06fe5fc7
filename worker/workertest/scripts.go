package workertest

import (
	"net/http"
	"time"

	"github.com/berthdev/berth/api"
)

// Script is a kind of trouble by name, for a worker to live through.
type Script struct {
	Name string
	What string // in a line
	// Long asks for calls of a few seconds, so that beats fall into them.
	Long bool
	// Workers is how many workers shall serve the plane: 1, or 2 where they are
	// to take sessions from each other.
	Workers int
	// Takes says that leases are taken or lapse: a call may be answered as
	// interrupted, and what another one should have left may be missing.
	Takes bool
	// Shuffles says that frames get lost or change places: the calls of a turn
	// may run in another order.
	Shuffles bool
	// Terminated says that the sessions shall be terminated rather than play
	// their turns to the end.
	Terminated bool
	// Begin makes the trouble.
	Begin func(*Plane)
}

// ScriptTTL is the lease's TTL in scripts whose trouble is with beats.
const ScriptTTL = 8 * time.Second

// Scripts are all kinds of trouble.
func Scripts() []Script {
	all := []Script{
		{Name: "none", What: "nothing goes wrong"},
		{Name: "5xx", What: "10 % of all calls are answered 503", Begin: everywhere(Fault{Share: 0.1, Status: 503})},
		{Name: "reset", What: "10 % of all connections are reset", Begin: everywhere(Fault{Share: 0.1, Reset: true})},
		{Name: "429", What: "10 % of all calls are answered 429, to be tried again after a second",
			Begin: everywhere(Fault{Share: 0.1, Status: 429, Header: http.Header{"Retry-After": {"1"}}})},
		{Name: "slow", What: "20 % of all answers come a second late", Begin: everywhere(Fault{Share: 0.2, Delay: time.Second})},
		{Name: "acks", What: "60 % of acks are answered 503", Begin: inject(Fault{Route: Ack, Share: 0.6, Status: 503})},
		{Name: "session", What: "60 % of the reads of a session are answered 503", Begin: inject(Fault{Route: GetSession, Share: 0.6, Status: 503})},
		{Name: "answers lost", What: "10 % of all calls take effect and their answers are lost", Begin: inject(Fault{Share: 0.1, Lost: true})},
		{Name: "polls empty in every form", What: "20 % of polls are answered 204, null, {} or an item without an id", Begin: func(p *Plane) {
			p.Inject(Fault{Route: Poll, Share: 0.05, Status: 204})
			for _, body := range []string{"null", "{}", `{"id":"","type":"work"}`} {
				p.Inject(Fault{Route: Poll, Share: 0.05, Status: 200, Body: body})
			}
		}},
		{Name: "beats lost", What: "30 % of beats take effect and their answers are lost, two in a row at most", Long: true,
			Begin: beats(Fault{Share: 0.3, Lost: true, InRow: 2})},
		{Name: "409 at a beat", What: "30 % of beats are answered 409", Long: true, Begin: beats(Fault{Share: 0.3, Status: 409, InRow: 2})},
		{Name: "409 at a beat, short calls", What: "the same", Begin: beats(Fault{Share: 0.3, Status: 409, InRow: 2})},
		{Name: "412 at a beat", What: "30 % of beats are answered 412 with the last beat that the worker knows", Long: true,
			Begin: beats(Fault{Share: 0.3, Status: 412, InRow: 2})},
		{Name: "412 at a beat, short calls", What: "the same", Begin: beats(Fault{Share: 0.3, Status: 412, InRow: 2})},
		{Name: "lease taken", What: "at 25 % of beats the lease is somebody else's, and the session is offered again", Long: true, Takes: true,
			Begin: beats(Fault{Share: 0.25, Taken: true})},
		{Name: "lease taken, short calls", What: "at 30 % of beats", Takes: true, Begin: beats(Fault{Share: 0.3, Taken: true})},
		{Name: "lease lapses", What: "25 % of beats are the last that come through; the session goes to either of two workers", Long: true, Takes: true, Workers: 2,
			Begin: beats(Fault{Share: 0.25, Lapse: true})},
		{Name: "short streams", What: "streams live for 50 to 400 ms", Begin: func(p *Plane) { p.CutStreams(50*time.Millisecond, 400*time.Millisecond) }},
		{Name: "streams cut at a call", What: "half of the tool uses are met by the end of their stream; a third of all frames come twice, a third bring an older one again",
			Begin: frameFaults(FrameFault{Type: api.TypeAgentToolUse, Share: 0.5, Kind: FrameCut}, FrameFault{Share: 0.33, Kind: FrameTwice}, FrameFault{Share: 0.5, Kind: FrameStale})},
		{Name: "frames dropped", What: "10 % of frames never come", Shuffles: true, Begin: frameFaults(FrameFault{Share: 0.1, Kind: FrameDropped})},
		{Name: "frames doubled", What: "every frame comes twice", Begin: frameFaults(FrameFault{Kind: FrameTwice})},
		{Name: "frames stale", What: "after 30 % of frames an older one comes again", Begin: frameFaults(FrameFault{Share: 0.3, Kind: FrameStale})},
		{Name: "frames reordered", What: "30 % of frames come after the one that follows", Shuffles: true, Begin: frameFaults(FrameFault{Share: 0.3, Kind: FrameLate})},
		{Name: "terminated in a gap", What: "the stream ends in place of the session's termination, of which half fall into a call", Terminated: true,
			Begin: frameFaults(FrameFault{Type: api.TypeSessionStatusTerminated, Kind: FrameCut})},
		{Name: "clock jumps", What: "the plane's clock jumps by up to an hour: stamps, beats and Date headers", Begin: func(p *Plane) { p.JumpClock(time.Hour) }},
		{Name: "a little of everything", What: "each of the above, rarely", Takes: true, Shuffles: true, Begin: aLittle},
	}
	for i := range all {
		all[i].Workers = max(1, all[i].Workers)
		if all[i].Begin == nil {
			all[i].Begin = func(*Plane) {}
		}
	}
	return all
}

func inject(f Fault) func(*Plane) { return func(p *Plane) { p.Inject(f) } }

// everywhere is trouble with streams as well.
func everywhere(f Fault) func(*Plane) {
	return func(p *Plane) {
		p.Inject(f)
		f.Route = Stream
		p.Inject(f)
	}
}

func beats(f Fault) func(*Plane) {
	f.Route = Beat
	return func(p *Plane) {
		p.SetTTL(ScriptTTL)
		p.Inject(f)
	}
}

func frameFaults(all ...FrameFault) func(*Plane) {
	return func(p *Plane) {
		for _, f := range all {
			p.InjectFrames(f)
		}
	}
}

func aLittle(p *Plane) {
	p.SetTTL(10 * time.Second)
	p.JumpClock(time.Minute)
	p.CutStreams(100*time.Millisecond, 5*time.Second)
	p.Inject(Fault{Route: Beat, Share: 0.03, Status: 412, InRow: 2})
	p.Inject(Fault{Route: Beat, Share: 0.03, Taken: true})
	for _, f := range []Fault{
		{Share: 0.03, Status: 503, InRow: 2}, {Share: 0.03, Reset: true, InRow: 2}, {Share: 0.03, Lost: true, InRow: 2},
		{Share: 0.03, Status: 429, InRow: 2}, {Share: 0.05, Delay: 300 * time.Millisecond, InRow: 2},
	} {
		everywhere(f)(p)
	}
	for _, k := range []FrameTrouble{FrameCut, FrameDropped, FrameTwice, FrameStale, FrameLate} {
		p.InjectFrames(FrameFault{Share: 0.03, Kind: k})
	}
}
