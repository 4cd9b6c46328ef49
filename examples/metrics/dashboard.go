package main

import (
	"encoding/json"
	"fmt"
)

// panel is a chart of the dashboard.
type panel struct {
	title   string
	unit    string // as Grafana calls it
	about   string
	queries []query
}

type query struct{ legend, expr string }

// panels are those of docs/grafana.json, from what the caller sees to why.
var panels = []panel{
	{"Calls", "reqps", "Calls that ended, by code.", []query{
		{"{{grpc_method}} {{rpc_response_status_code}}", `sum by (grpc_method, rpc_response_status_code) (rate(rego_client_calls_total[$__rate_interval]))`},
	}},
	{"Duration of calls, p50 and p99", "s", "With all their attempts and waits.", []query{
		{"p50 {{rpc_method}}", `histogram_quantile(0.5, sum by (le, rpc_method) (rate(rpc_client_call_duration_seconds_bucket[$__rate_interval])))`},
		{"p99 {{rpc_method}}", `histogram_quantile(0.99, sum by (le, rpc_method) (rate(rpc_client_call_duration_seconds_bucket[$__rate_interval])))`},
	}},
	{"Amplification", "none", "Attempts per call. 1 is none; the server sees so many times the load.", []query{
		{"{{grpc_method}}", `sum by (grpc_method) (rate(rego_client_attempts_total[$__rate_interval])) / sum by (grpc_method) (rate(rego_client_calls_total[$__rate_interval]))`},
	}},
	{"Why calls stopped", "reqps", "End reasons of calls that failed.", []query{
		{"{{grpc_method}} {{rego_end_reason}}", `sum by (grpc_method, rego_end_reason) (rate(rego_client_calls_total{rego_end_reason!="succeeded"}[$__rate_interval]))`},
	}},
	{"Retries and hedges", "reqps", "By what became of them.", []query{
		{"{{grpc_method}} {{rego_attempt_kind}} {{rego_attempt_result}}", `sum by (grpc_method, rego_attempt_kind, rego_attempt_result) (rate(rego_client_attempts_total{rego_attempt_kind!="original"}[$__rate_interval]))`},
	}},
	{"Attempts that failed", "reqps", "By code, and by whether a server may have seen them.", []query{
		{"{{grpc_method}} {{rpc_response_status_code}} {{rego_delivery}}", `sum by (grpc_method, rpc_response_status_code, rego_delivery) (rate(rego_client_attempts_total{rego_attempt_result="failed"}[$__rate_interval]))`},
	}},
	{"Denials", "reqps", "Retries and hedges for which there was reason, and that were not sent.", []query{
		{"{{grpc_method}} {{rego_attempt_kind}} {{rego_denial_reason}}", `sum by (grpc_method, rego_attempt_kind, rego_denial_reason) (rate(rego_client_denials_total[$__rate_interval]))`},
	}},
	{"Budgets", "none", "What a budget has. At zero it denies.", []query{
		{"{{grpc_target}} {{rego_budget_name}}", `min by (grpc_target, rego_budget_name) (rego_budget_balance)`},
	}},
	{"Extra load of hedging", "percentunit", "Of the last ten seconds, and what the policy allows.", []query{
		{"{{grpc_method}}", `max by (grpc_method) (rego_hedge_extra_load_ratio)`},
		{"{{grpc_method}} allowed", `max by (grpc_method) (rego_hedge_max_extra_load_ratio)`},
	}},
	{"Delay before a hedge", "s", "In force.", []query{
		{"{{grpc_method}}", `max by (grpc_method) (rego_hedge_delay_seconds)`},
	}},
	{"Waits for a connection", "reqps", "Attempts that found none. A server restarts.", []query{
		{"{{grpc_method}}", `sum by (grpc_method) (rate(rego_client_reconnects_total[$__rate_interval]))`},
	}},
	{"Policy", "s", "Age of the set in force: zero while it is known to be the newest.", []query{
		{"{{instance}}", `rego_policy_age_seconds`},
	}},
}

const columns, width, height = 2, 12, 8

// dashboard returns the panels as Grafana reads them.
func dashboard() ([]byte, error) {
	type object = map[string]any
	source := object{"type": "prometheus", "uid": "${datasource}"}
	var list []object
	for i, p := range panels {
		var targets []object
		for j, q := range p.queries {
			targets = append(targets, object{"datasource": source, "expr": q.expr, "legendFormat": q.legend, "refId": fmt.Sprintf("%c", 'A'+j)})
		}
		list = append(list, object{
			"id": i + 1, "type": "timeseries", "title": p.title, "description": p.about, "datasource": source, "targets": targets,
			"gridPos":     object{"h": height, "w": width, "x": i % columns * width, "y": i / columns * height},
			"fieldConfig": object{"defaults": object{"unit": p.unit, "min": 0}, "overrides": []object{}},
			"options":     object{"legend": object{"displayMode": "list", "placement": "bottom"}, "tooltip": object{"mode": "multi"}},
		})
	}
	data, err := json.MarshalIndent(object{
		"title": "rego", "uid": "rego-client", "schemaVersion": 39, "tags": []string{"grpc"}, "refresh": "10s",
		"time": object{"from": "now-30m", "to": "now"},
		"templating": object{"list": []object{
			{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
		}},
		"panels": list,
	}, "", "  ")
	return append(data, '\n'), err
}
