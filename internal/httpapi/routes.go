package httpapi

import (
	"regexp"
	"strings"
)

// route is one call of the API. serve gives what is answered as JSON, or has
// written the answer itself.
type route struct {
	pattern string
	access  access
	serve   func(*call) (any, error)
	stream  bool     // answers with events
	params  []string // names in the path; filled by routes
}

// routes is the table of contents, and the acceptance matrix of credentials.
// A credential that a route does not take is 403; one for another environment,
// item or session is 403 or 404.
func (s *server) routes() []route {
	const (
		operator = apiKey
		queue    = apiKey | environmentKey
		holder   = apiKey | environmentKey | sessionsToken
	)
	all := []route{
		{pattern: "POST /v1/environments", access: operator, serve: createEnvironment},
		{pattern: "GET /v1/environments", access: operator, serve: listEnvironments},
		{pattern: "GET /v1/environments/{environment}", access: operator, serve: getEnvironment},
		{pattern: "POST /v1/environments/{environment}", access: operator, serve: updateEnvironment},
		{pattern: "DELETE /v1/environments/{environment}", access: operator, serve: deleteEnvironment},
		{pattern: "POST /v1/environments/{environment}/archive", access: operator, serve: archiveEnvironment},

		{pattern: "GET /v1/environments/{environment}/work", access: queue, serve: listWork},
		{pattern: "GET /v1/environments/{environment}/work/poll", access: queue, serve: pollWork},
		{pattern: "GET /v1/environments/{environment}/work/stats", access: queue, serve: workStats},
		{pattern: "GET /v1/environments/{environment}/work/{work}", access: operator, serve: getWork},
		{pattern: "POST /v1/environments/{environment}/work/{work}", access: operator, serve: updateWork},
		{pattern: "POST /v1/environments/{environment}/work/{work}/ack", access: holder | deadToken, serve: ackWork},
		{pattern: "POST /v1/environments/{environment}/work/{work}/heartbeat", access: holder | deadToken, serve: beatWork},
		{pattern: "POST /v1/environments/{environment}/work/{work}/stop", access: holder | deadToken, serve: stopWork},

		{pattern: "POST /v1/agents", access: operator, serve: createAgent},
		{pattern: "GET /v1/agents", access: operator, serve: listAgents},
		{pattern: "GET /v1/agents/{agent}", access: operator, serve: getAgent},
		{pattern: "POST /v1/agents/{agent}", access: operator, serve: updateAgent},
		{pattern: "POST /v1/agents/{agent}/archive", access: operator, serve: archiveAgent},
		{pattern: "GET /v1/agents/{agent}/versions", access: operator, serve: listAgentVersions},

		{pattern: "POST /v1/sessions", access: operator, serve: createSession},
		{pattern: "GET /v1/sessions", access: operator, serve: listSessions},
		{pattern: "GET /v1/sessions/{session}", access: holder, serve: getSession},
		{pattern: "POST /v1/sessions/{session}", access: operator, serve: updateSession},
		{pattern: "DELETE /v1/sessions/{session}", access: operator, serve: deleteSession},
		{pattern: "POST /v1/sessions/{session}/archive", access: operator, serve: archiveSession},

		{pattern: "GET /v1/sessions/{session}/events", access: holder, serve: listEvents},
		{pattern: "POST /v1/sessions/{session}/events", access: holder, serve: sendEvents},
		{pattern: "GET /v1/sessions/{session}/events/stream", access: holder, serve: streamEvents, stream: true},

		{pattern: "GET /v1/sessions/{session}/threads", access: holder, serve: listThreads},
		{pattern: "GET /v1/sessions/{session}/threads/{thread}", access: holder, serve: getThread},
		{pattern: "POST /v1/sessions/{session}/threads/{thread}/archive", access: operator, serve: archiveThread},
		{pattern: "GET /v1/sessions/{session}/threads/{thread}/events", access: holder, serve: listThreadEvents},
		{pattern: "GET /v1/sessions/{session}/threads/{thread}/stream", access: holder, serve: streamThread, stream: true},

		{pattern: "GET /v1/sessions/{session}/resources", access: holder, serve: listResources},
		{pattern: "POST /v1/sessions/{session}/resources", access: operator, serve: addResource},
		{pattern: "GET /v1/sessions/{session}/resources/{resource}", access: holder, serve: noResource},
		{pattern: "POST /v1/sessions/{session}/resources/{resource}", access: operator, serve: noResource},
		{pattern: "DELETE /v1/sessions/{session}/resources/{resource}", access: operator, serve: noResource},

		{pattern: "GET /v1/models", access: operator, serve: listModels},
		{pattern: "GET /v1/models/{model...}", access: operator, serve: getModel},

		{pattern: "POST /v1/berth/keys", access: operator, serve: createKey},
		{pattern: "GET /v1/berth/keys", access: operator, serve: listKeys},
		{pattern: "DELETE /v1/berth/keys/{key}", access: operator, serve: revokeKey},
	}
	for i := range all {
		for _, m := range pathParam.FindAllStringSubmatch(all[i].pattern, -1) {
			all[i].params = append(all[i].params, strings.TrimSuffix(m[1], "..."))
		}
	}
	return all
}

var pathParam = regexp.MustCompile(`\{([a-z.]+)\}`)
