package main

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// label is a text below a bar, at the place of what it tells.
type label struct {
	text   string
	at     float64 // where the event is, or the middle of a wait
	left   float64 // of the text
	lane   int     // 0 is right below the bar
	mark   bool    // an event, not a wait
	denied bool
}

// labels returns what is to be told of a span, in the order of time.
func (p *picture) labels(r *row) []label {
	var ls []label
	add := func(text string, at float64, mark, denied bool) {
		ls = append(ls, label{text: cut(text, 60), at: at, mark: mark, denied: denied})
	}
	if wait := r.Tags.micros("rego.wait.duration"); wait > 0 {
		middle := (p.x(r.Start-wait) + p.x(r.Start)) / 2
		add(strings.TrimSpace(duration(wait)+" "+r.Tags.text("rego.wait.reason")), middle, false, false)
	}
	if idle := r.Tags.micros("rego.attempt.unreachable"); idle > 0 {
		middle := (p.x(r.Start) + min(p.x(r.Start+idle), p.x(r.Start+r.Duration))) / 2
		add(duration(idle)+" without a connection", middle, false, false)
	}
	for i, e := range r.Events {
		if i == maxEvents {
			add(fmt.Sprintf("%d more events", len(r.Events)-i), p.x(e.Time), true, false)
			break
		}
		add(e.words(), p.x(e.Time), true, e.Fields.text("event") == "rego.denial")
	}
	return ls
}

// place gives each label a lane in which it overlaps no other, and keeps it on the page. The
// last one comes first: its text is right of the lines to those before it, which go further down.
func place(ls []label) []label {
	var taken [][][2]float64 // of each lane
	for i := len(ls) - 1; i >= 0; i-- {
		l := &ls[i]
		w := float64(utf8.RuneCountInString(l.text)) * smallLetter
		l.left = l.at - w/2
		if l.mark {
			l.left = l.at + 4
		}
		l.left = max(min(l.left, width-8-w), axisLeft-8)
		for overlaps(taken, l.lane, l.left, l.left+w) {
			l.lane++
		}
		for len(taken) <= l.lane {
			taken = append(taken, nil)
		}
		taken[l.lane] = append(taken[l.lane], [2]float64{min(l.left, l.at) - 6, l.left + w + 6})
	}
	return ls
}

func overlaps(taken [][][2]float64, lane int, from, to float64) bool {
	if lane >= len(taken) {
		return false
	}
	for _, t := range taken[lane] {
		if from < t[1] && t[0] < to {
			return true
		}
	}
	return false
}

// label draws one below the bar that begins at y.
func (p *picture) label(l label, y float64) {
	base := y + barHeight + 11 + lineHeight*float64(l.lane)
	if l.mark {
		class := "mark"
		if l.denied {
			class = "denied"
		}
		p.line("leader", l.at, y+barHeight, l.at, base-4)
		mid := y + barHeight/2
		p.element("path", "", attr{"class", class}, attr{"d", "M" + px(l.at) + " " + px(mid-5) + "l5 5-5 5-5-5z"})
		p.shown["mark"] = true
	}
	class := "label"
	if l.denied {
		class = "label bad"
	}
	p.text(class, l.left, base, l.text)
}
