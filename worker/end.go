package worker

// End is why a session was let go.
type End string

const (
	EndIdle       End = "idle"       // MaxIdle passed after its turn
	EndTerminated End = "terminated" // the session ended or was deleted
	EndRoom       End = "room"       // parked, and its room was needed
	EndStopping   End = "stopping"   // the control plane asked for it
	EndStopped    End = "stopped"    // the control plane stopped the item
	EndLost       End = "lost"       // the lease is somebody else's
	EndDrained    End = "drained"    // this worker stopped taking work
	EndCancelled  End = "cancelled"  // this worker stopped the work
	EndFailed     End = "failed"     // an error; HandleItem returns it
)

// CallOutcome is how a call ended.
type CallOutcome string

const (
	CallAnswered    CallOutcome = "answered"    // its result was accepted
	CallRefused     CallOutcome = "refused"     // its result was refused for good
	CallUnsent      CallOutcome = "unsent"      // its result could not be sent in time
	CallInterrupted CallOutcome = "interrupted" // nothing was posted: interrupt, stop or lost lease
)
