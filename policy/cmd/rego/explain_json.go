package main

import "github.com/rego-go/rego/policy"

// explainedJSON is what explain prints as JSON. Its fields are part of the promise, their texts
// are not.
type explainedJSON struct {
	Method     string     `json:"method"`
	From       string     `json:"from"`               // rule, option or default
	Rule       *int       `json:"rule,omitempty"`     // the index of the rule that covers the method
	Selector   string     `json:"selector,omitempty"` // by which it does
	Option     string     `json:"option,omitempty"`   // rego.v1.method or rego.v1.service
	Fields     []field    `json:"fields"`
	Hedging    string     `json:"hedging,omitempty"`
	Steps      []stepJSON `json:"steps"`
	Overloaded []stepJSON `json:"overloaded,omitempty"` // instead of steps, of an overloaded server
	Waits      string     `json:"waits,omitempty"`
	WorstCase  worstJSON  `json:"worst_case"`
	Warnings   []string   `json:"warnings,omitempty"`
}

type stepJSON struct {
	Attempt int    `json:"attempt"`
	Begins  string `json:"begins"`
}

type worstJSON struct {
	Attempts int `json:"attempts"`
	// Seconds is absent if nothing in the policy bounds the time.
	Seconds float64 `json:"seconds,omitempty"`
	Time    string  `json:"time"`
	Load    string  `json:"load"`
}

func (e *explanation) json() explainedJSON {
	of := e.explained()
	j := explainedJSON{
		Method: e.method, From: e.from, Selector: e.selector, Option: e.option, Fields: e.fields(),
		Hedging: of.Hedging, Steps: stepsJSON(of.Steps), Overloaded: stepsJSON(of.Overloaded), Waits: of.Waits,
		WorstCase: worstJSON{of.Attempts, of.Longest.Seconds(), of.Time, of.Load}, Warnings: e.warnings,
	}
	if e.rule >= 0 {
		j.Rule = &e.rule
	}
	return j
}

func stepsJSON(steps []policy.Step) []stepJSON {
	var list []stepJSON
	for _, s := range steps {
		list = append(list, stepJSON{s.Number, s.Begins})
	}
	return list
}
