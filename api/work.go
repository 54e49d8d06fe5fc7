package api

// WorkState is where a work item stands: queued → starting (acked) → active
// (first beat) → stopping → stopped.
type WorkState string

const (
	WorkQueued   WorkState = "queued"
	WorkStarting WorkState = "starting"
	WorkActive   WorkState = "active"
	WorkStopping WorkState = "stopping"
	WorkStopped  WorkState = "stopped"
)

// Work asks some worker to serve one session. Secret is filled in a poll
// answer only: base64url of a WorkSecret.
type Work struct {
	ID                string    `json:"id"`
	Type              string    `json:"type"` // "work"
	EnvironmentID     string    `json:"environment_id"`
	Data              WorkData  `json:"data"`
	State             WorkState `json:"state"`
	Metadata          Metadata  `json:"metadata"`
	Secret            *string   `json:"secret"`
	CreatedAt         Time      `json:"created_at"`
	AcknowledgedAt    *Time     `json:"acknowledged_at"`
	StartedAt         *Time     `json:"started_at"`
	LatestHeartbeatAt *Time     `json:"latest_heartbeat_at"`
	StopRequestedAt   *Time     `json:"stop_requested_at"`
	StoppedAt         *Time     `json:"stopped_at"`
}

// WorkData names what is to be served: type "session" or "healthcheck".
type WorkData struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

// WorkSecret is what Work.Secret encodes. Stock workers read SessionsToken
// only. PossiblyStarted lists calls that a former holder may have begun; a
// worker answers them as interrupted and does not run them. It is nil where the
// control plane does not know.
type WorkSecret struct {
	SessionsToken   string   `json:"sessions_token"`
	APIBaseURL      string   `json:"api_base_url,omitempty"`
	PossiblyStarted []string `json:"possibly_started,omitzero"`
}

// NoHeartbeat is the expected_last_heartbeat of a lease's first beat.
const NoHeartbeat = "NO_HEARTBEAT"

// Heartbeat answers a beat. LastHeartbeat is compared as a string: send it
// back byte for byte as the next expected_last_heartbeat.
type Heartbeat struct {
	Type          string    `json:"type"` // "work_heartbeat"
	LastHeartbeat string    `json:"last_heartbeat"`
	LeaseExtended bool      `json:"lease_extended"`
	State         WorkState `json:"state"`
	TTLSeconds    int       `json:"ttl_seconds"`
}

// LeaseState is details.current_state of a 412 answer to a beat.
type LeaseState struct {
	State          WorkState `json:"state"`
	LastHeartbeat  *string   `json:"last_heartbeat"`
	LeaseUpdatedAt *Time     `json:"lease_updated_at"`
	LeaseExtended  bool      `json:"lease_extended"`
	TTLSeconds     int       `json:"ttl_seconds"`
}

type UpdateWork struct {
	Metadata MetadataPatch `json:"metadata"`
}

type StopWork struct {
	Force bool `json:"force,omitempty"`
}

// BegunHeader goes with the stop of an item by its holder and lists the calls
// that it may have begun and has not answered, commas between their ids, or
// BegunNone. A control plane that does not know the header passes over it.
const BegunHeader = "Berth-Possibly-Started"

// BegunNone says that there are none.
const BegunNone = "none"

// WorkStats counts a queue. Depth waits for a worker, Delivered was polled
// and not yet acked, Pending is acked and not stopped.
type WorkStats struct {
	Type           string `json:"type"` // "work_queue_stats"
	Depth          int    `json:"depth"`
	Pending        int    `json:"pending"`
	Delivered      int    `json:"delivered"`
	OldestQueuedAt *Time  `json:"oldest_queued_at"`
	WorkersPolling int    `json:"workers_polling"`
}
