package httpapi

import (
	"net/http"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// TestOfficialSDK makes every call of the official Go SDK that this server
// answers, as its users write them.
func TestOfficialSDK(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		ctx := t.Context()
		no := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		c := anthropic.NewClient(option.WithBaseURL(w.url), option.WithAPIKey(w.key), option.WithMaxRetries(0))

		env, err := c.Beta.Environments.New(ctx, anthropic.BetaEnvironmentNewParams{
			Name: "lab", Description: anthropic.String("d"), Metadata: map[string]string{"a": "1", "b": "2"},
			Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfSelfHosted: &anthropic.BetaSelfHostedConfigParams{}},
		})
		no(err)
		env, err = c.Beta.Environments.Update(ctx, env.ID, anthropic.BetaEnvironmentUpdateParams{Metadata: map[string]string{"a": ""}, Name: anthropic.String("lab2")})
		no(err)
		if env.Name != "lab2" || len(env.Metadata) != 1 || env.Description != "d" || env.Config.Type != "self_hosted" {
			t.Errorf("environment %s", env.RawJSON())
		}
		got, err := c.Beta.Environments.Get(ctx, env.ID, anthropic.BetaEnvironmentGetParams{})
		no(err)
		if got.UpdatedAt != env.UpdatedAt {
			t.Errorf("got %s", got.RawJSON())
		}
		n := 0
		for pager := c.Beta.Environments.ListAutoPaging(ctx, anthropic.BetaEnvironmentListParams{Limit: anthropic.Int(1)}); pager.Next(); n++ {
		}
		if n != 1 {
			t.Errorf("%d environments", n)
		}

		agent, err := c.Beta.Agents.New(ctx, anthropic.BetaAgentNewParams{
			Name: "A", Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "scripted"}, System: anthropic.String("s"),
			Tools: []anthropic.BetaAgentNewParamsToolUnion{
				{OfAgentToolset20260401: &anthropic.BetaManagedAgentsAgentToolset20260401Params{Type: "agent_toolset_20260401"}},
				{OfCustom: &anthropic.BetaManagedAgentsCustomToolParams{Type: "custom", Name: "ask", Description: "d", InputSchema: anthropic.BetaManagedAgentsCustomToolInputSchemaParam{Properties: map[string]any{"q": map[string]any{"type": "string"}}}}},
			},
		})
		no(err)
		next, err := c.Beta.Agents.Update(ctx, agent.ID, anthropic.BetaAgentUpdateParams{Version: anthropic.Int(agent.Version), System: anthropic.String("t")})
		no(err)
		if next.Version != 2 || next.System != "t" || next.Tools[0].AsAgentToolset20260401().DefaultConfig.PermissionPolicy.Type != "always_allow" || next.Tools[1].AsCustom().Name != "ask" {
			t.Errorf("agent %s", next.RawJSON())
		}
		old, err := c.Beta.Agents.Get(ctx, agent.ID, anthropic.BetaAgentGetParams{Version: anthropic.Int(1)})
		no(err)
		versions, err := c.Beta.Agents.Versions.List(ctx, agent.ID, anthropic.BetaAgentVersionListParams{})
		no(err)
		agents, err := c.Beta.Agents.List(ctx, anthropic.BetaAgentListParams{CreatedAtGte: anthropic.Time(time.Now().Add(-time.Hour))})
		no(err)
		if old.System != "s" || len(versions.Data) != 2 || len(agents.Data) != 1 || agents.Data[0].Version != 2 {
			t.Errorf("version 1 says %q; %d versions, %d agents", old.System, len(versions.Data), len(agents.Data))
		}

		sess, err := c.Beta.Sessions.New(ctx, anthropic.BetaSessionNewParams{
			EnvironmentID: env.ID, Title: anthropic.String("T"), Metadata: map[string]string{"input_file": "a.csv"},
			Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(agent.ID)},
		})
		no(err)
		if sess.Status != "idle" || sess.Agent.Version != 2 || sess.Title != "T" || sess.Metadata["input_file"] != "a.csv" {
			t.Errorf("session %s", sess.RawJSON())
		}
		sess, err = c.Beta.Sessions.Update(ctx, sess.ID, anthropic.BetaSessionUpdateParams{Title: anthropic.String("U")})
		no(err)
		threads, err := c.Beta.Sessions.Threads.List(ctx, sess.ID, anthropic.BetaSessionThreadListParams{})
		no(err)
		thread, err := c.Beta.Sessions.Threads.Get(ctx, threads.Data[0].ID, anthropic.BetaSessionThreadGetParams{SessionID: sess.ID})
		no(err)
		resources, err := c.Beta.Sessions.Resources.List(ctx, sess.ID, anthropic.BetaSessionResourceListParams{})
		no(err)
		if sess.Title != "U" || len(threads.Data) != 1 || thread.SessionID != sess.ID || len(resources.Data) != 0 {
			t.Errorf("session %s, thread %s", sess.RawJSON(), thread.RawJSON())
		}

		stream := c.Beta.Sessions.Events.StreamEvents(ctx, sess.ID, anthropic.BetaSessionEventStreamParams{EventDeltas: []anthropic.BetaManagedAgentsDeltaType{"agent.message"}})
		defer stream.Close()
		sent, err := c.Beta.Sessions.Events.Send(ctx, sess.ID, anthropic.BetaSessionEventSendParams{Events: []anthropic.BetaManagedAgentsEventParamsUnion{{
			OfUserMessage: &anthropic.BetaManagedAgentsUserMessageEventParams{Type: "user.message", Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{
				OfText: &anthropic.BetaManagedAgentsTextBlockParam{Type: "text", Text: "hi"},
			}}},
		}}})
		no(err)
		if len(sent.Data) != 1 || sent.Data[0].AsUserMessage().Content[0].AsText().Text != "hi" {
			t.Errorf("sent %s", sent.RawJSON())
		}
		kinds := map[string]int{}
		for stream.Next() {
			kinds[stream.Current().Type]++
			if stream.Current().Type == "session.status_idle" {
				break
			}
		}
		no(stream.Err())
		if kinds["agent.message"] != 1 || kinds["event_delta"] == 0 || kinds["user.message"] == 0 {
			t.Errorf("the stream showed %v", kinds)
		}
		n = 0
		for pager := c.Beta.Sessions.Events.ListAutoPaging(ctx, sess.ID, anthropic.BetaSessionEventListParams{Limit: anthropic.Int(2), Order: "asc"}); pager.Next(); n++ {
			if pager.Current().AsAny() == nil {
				t.Errorf("an event of no kind: %s", pager.Current().RawJSON())
			}
		}
		if n < 6 {
			t.Errorf("%d events", n)
		}

		stats, err := c.Beta.Environments.Work.Stats(ctx, env.ID, anthropic.BetaEnvironmentWorkStatsParams{})
		no(err)
		work, err := c.Beta.Environments.Work.List(ctx, env.ID, anthropic.BetaEnvironmentWorkListParams{})
		no(err)
		if stats.Depth != 1 || len(work.Data) != 1 || work.Data[0].Metadata["input_file"] != "a.csv" {
			t.Fatalf("stats %s, work %s", stats.RawJSON(), work.RawJSON())
		}
		id := work.Data[0].ID
		item, err := c.Beta.Environments.Work.Update(ctx, id, anthropic.BetaEnvironmentWorkUpdateParams{
			EnvironmentID: env.ID, BetaSelfHostedWorkUpdateRequest: anthropic.BetaSelfHostedWorkUpdateRequestParam{Metadata: map[string]string{"k": "v"}},
		})
		no(err)
		polled, err := c.Beta.Environments.Work.Poll(ctx, env.ID, anthropic.BetaEnvironmentWorkPollParams{BlockMs: anthropic.Int(1), AnthropicWorkerID: anthropic.String("me")})
		no(err)
		if polled.ID != id || polled.Secret == "" || item.Metadata["k"] != "v" {
			t.Errorf("polled %s", polled.RawJSON())
		}
		none, err := c.Beta.Environments.Work.Poll(ctx, env.ID, anthropic.BetaEnvironmentWorkPollParams{BlockMs: anthropic.Int(1)})
		no(err)
		if none != nil && none.ID != "" {
			t.Errorf("polled again: %s", none.RawJSON())
		}
		_, err = c.Beta.Environments.Work.Ack(ctx, id, anthropic.BetaEnvironmentWorkAckParams{EnvironmentID: env.ID})
		no(err)
		beat, err := c.Beta.Environments.Work.Heartbeat(ctx, id, anthropic.BetaEnvironmentWorkHeartbeatParams{EnvironmentID: env.ID, ExpectedLastHeartbeat: anthropic.String("NO_HEARTBEAT")})
		no(err)
		if !beat.LeaseExtended || beat.State != "active" {
			t.Errorf("beat %s", beat.RawJSON())
		}
		item, err = c.Beta.Environments.Work.Stop(ctx, id, anthropic.BetaEnvironmentWorkStopParams{EnvironmentID: env.ID, BetaSelfHostedWorkStopRequest: anthropic.BetaSelfHostedWorkStopRequestParam{Force: anthropic.Bool(true)}})
		no(err)
		if item.State != "stopped" {
			t.Errorf("stopped %s", item.RawJSON())
		}

		models, err := c.Beta.Models.List(ctx, anthropic.BetaModelListParams{})
		no(err)
		model, err := c.Beta.Models.Get(ctx, "scripted", anthropic.BetaModelGetParams{})
		no(err)
		if len(models.Data) != 1 || model.ID != "scripted" {
			t.Errorf("models %s", models.RawJSON())
		}

		list, err := c.Beta.Sessions.List(ctx, anthropic.BetaSessionListParams{AgentID: anthropic.String(agent.ID), Order: "asc"})
		no(err)
		_, err = c.Beta.Sessions.Archive(ctx, sess.ID, anthropic.BetaSessionArchiveParams{})
		no(err)
		gone, err := c.Beta.Sessions.Delete(ctx, sess.ID, anthropic.BetaSessionDeleteParams{})
		no(err)
		if len(list.Data) != 1 || gone.Type != "session_deleted" {
			t.Errorf("%d sessions, %s", len(list.Data), gone.RawJSON())
		}
		_, err = c.Beta.Sessions.Get(ctx, sess.ID, anthropic.BetaSessionGetParams{})
		if e, ok := err.(*anthropic.Error); !ok || e.StatusCode != http.StatusNotFound || e.RequestID == "" {
			t.Errorf("a deleted session: %v", err)
		}
		_, err = c.Beta.Agents.Archive(ctx, agent.ID, anthropic.BetaAgentArchiveParams{})
		no(err)
		_, err = c.Beta.Environments.Archive(ctx, env.ID, anthropic.BetaEnvironmentArchiveParams{})
		no(err)
		deleted, err := c.Beta.Environments.Delete(ctx, env.ID, anthropic.BetaEnvironmentDeleteParams{})
		no(err)
		if deleted.ID != env.ID {
			t.Errorf("deleted %s", deleted.RawJSON())
		}
	})
}
