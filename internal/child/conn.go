package child

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// accept takes a new connection in the place of the one there may be.
func (a *agent) accept() error {
	fd, _, err := unix.Accept(a.listen)
	if err != nil {
		return err
	}
	if a.guard && neighbour(fd) {
		return unix.Close(fd)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	if a.conn >= 0 {
		a.endPrograms()
		unix.Close(a.conn)
	}
	a.conn, a.reply, a.in, a.out = fd, fd, nil, nil
	a.nap.changed()
	if a.shell != nil {
		a.send(agentwire.KindReady, agentwire.EncodeReady(unix.Getpid()))
	}
	return nil
}

// hangUp forgets the connection. The running command goes on.
func (a *agent) hangUp() {
	a.endPrograms()
	unix.Close(a.conn)
	if a.reply != a.conn {
		unix.Close(a.reply)
	}
	a.conn, a.reply, a.in, a.out = -1, -1, nil, nil
	a.orphanAt = a.now.Add(a.boot.OrphanTTL)
}

// receive reads once. false means that the connection is gone.
func (a *agent) receive() bool {
	n, err := quickRead(a.conn, a.room())
	if n > 0 {
		if n == len(a.buf) {
			a.nap.again()
		}
		a.heard = a.now
		a.in = append(a.in, a.buf[:n]...)
		return true
	}
	return err == unix.EAGAIN || err == unix.EINTR
}

// send queues a frame and writes what goes out at once.
func (a *agent) send(k agentwire.Kind, body []byte) {
	if a.conn < 0 {
		return
	}
	out, err := agentwire.Append(a.out, k, body)
	if err != nil { // no result is that large
		return
	}
	a.out = out
	a.flush()
}

func (a *agent) flush() {
	for len(a.out) > 0 && a.conn >= 0 {
		n, err := a.write()
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return
		case err != nil:
			a.hangUp()
			return
		default:
			a.out = a.out[n:]
		}
	}
	if len(a.out) == 0 {
		a.out = nil
	}
}

func (a *agent) write() (int, error) {
	if a.reply == a.conn {
		return quickSend(a.conn, a.out)
	}
	return unix.Write(a.reply, a.out) // a pipe
}

// flushAll writes what is queued, for at most a second.
func (a *agent) flushAll() {
	end := time.Now().Add(time.Second)
	for a.flush(); len(a.out) > 0 && time.Now().Before(end); a.flush() {
		p := []unix.PollFd{{Fd: int32(a.reply), Events: unix.POLLOUT}}
		_, _ = unix.Poll(p, 100)
	}
}

// frames serves every whole frame that has arrived. A frame that makes no
// sense ends the connection.
func (a *agent) frames() (end bool, err error) {
	for a.conn >= 0 {
		f, n, err := agentwire.Next(a.in)
		if err != nil {
			a.hangUp()
			return false, nil
		}
		if n == 0 {
			return false, nil
		}
		end, bad, err := a.frame(f)
		if end || err != nil {
			return end, err
		}
		if bad {
			a.hangUp()
			return false, nil
		}
		if a.in = a.in[n:]; len(a.in) == 0 {
			a.in = nil
		}
	}
	return false, nil
}

// frame serves one frame; bad means that it made no sense.
func (a *agent) frame(f agentwire.Frame) (end, bad bool, err error) {
	switch f.Kind {
	case agentwire.KindRun:
		r, err := agentwire.DecodeRun(f.Body)
		if err != nil || r.ID == "" {
			return false, true, nil
		}
		return false, false, a.run(r)
	case agentwire.KindProbe:
		q, err := agentwire.DecodeProbe(f.Body)
		if err != nil {
			return false, true, nil
		}
		a.send(agentwire.KindPosture, a.posture(q).Encode())
		return false, false, nil
	case agentwire.KindFile:
		r, err := agentwire.DecodeFileRequest(f.Body)
		if err != nil {
			return false, true, nil
		}
		a.send(agentwire.KindFileReply, a.serveFile(r).Encode())
		return false, false, nil
	case agentwire.KindStart, agentwire.KindInput, agentwire.KindGrant, agentwire.KindQuit:
		return false, a.programFrame(f) != nil, nil
	case agentwire.KindPing:
		return false, false, nil // that it came is all it says
	case agentwire.KindRestart:
		return false, false, a.restart()
	case agentwire.KindEnd:
		return true, false, nil
	case agentwire.KindBoot:
		boot, err := agentwire.DecodeBoot(f.Body)
		if err != nil || !a.boot.Renews || !boot.Renews {
			return false, true, nil
		}
		a.next = &boot
		return true, false, nil
	}
	id, err := agentwire.DecodeText(f.Body)
	if err != nil {
		return false, true, nil
	}
	switch f.Kind {
	case agentwire.KindAsk:
		a.answer(id)
	case agentwire.KindAck:
		if a.last != nil && a.last.ID == id {
			a.giveUp()
		}
	case agentwire.KindInterrupt:
		if a.call != nil && a.call.id == id {
			return false, false, a.cut("interrupted")
		}
	default:
		return false, true, nil
	}
	return false, false, nil
}

// run serves a Run: an id runs once.
func (a *agent) run(r agentwire.Run) error {
	switch {
	case a.call != nil && a.call.id == r.ID, a.last != nil && a.last.ID == r.ID:
		a.answer(r.ID)
	case a.call != nil:
		a.send(agentwire.KindRefused, agentwire.Refused{ID: r.ID, Reason: agentwire.Busy}.Encode())
	case a.seen[r.ID]:
		a.send(agentwire.KindRefused, agentwire.Refused{ID: r.ID, Reason: "the command ran before and its result has been given up"}.Encode())
	default:
		a.giveUp()
		return a.start(r)
	}
	return nil
}

// answer says what is known of an id.
func (a *agent) answer(id string) {
	switch {
	case a.call != nil && a.call.id == id:
		a.send(agentwire.KindRunning, agentwire.EncodeText(id))
	case a.last != nil && a.last.ID == id:
		a.send(agentwire.KindResult, a.last.Encode())
	default:
		a.send(agentwire.KindUnknown, agentwire.EncodeText(id))
	}
}

// giveUp drops the kept result, but not the knowledge that its id ran.
func (a *agent) giveUp() {
	if a.last == nil {
		return
	}
	a.seen[a.last.ID] = true
	a.order = append(a.order, a.last.ID)
	if len(a.order) > maxSeen {
		delete(a.seen, a.order[0])
		a.order = a.order[1:]
	}
	a.last = nil
}
