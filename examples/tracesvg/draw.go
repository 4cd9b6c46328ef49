package main

import (
	"cmp"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Where things are, in pixels. Names are left of the time axis; right of it is room for the
// duration of the longest bar.
const (
	width      = 900.0
	namesRight = 356.0
	axisLeft   = 370.0
	axisRight  = 822.0
	rowsTop    = 62.0
	barHeight  = 12.0
	lineHeight = 14.0
	indent     = 14.0
	maxIndent  = 8
	maxEvents  = 12 // that a span's row shows

	// How wide a letter is, about: in names, and in what is smaller.
	letter      = 7.0
	smallLetter = 6.3
)

// picture is a trace that is being drawn.
type picture struct {
	svg
	*trace

	bars  []float64 // of each row, the top of its bar; then where the next one would be
	shown map[string]bool
}

// draw returns the trace as SVG.
func draw(t *trace) []byte {
	p := &picture{trace: t, bars: make([]float64, len(t.rows)+1), shown: make(map[string]bool)}
	labels := make([][]label, len(t.rows))
	bottom := rowsTop
	for i := range t.rows {
		r := &t.rows[i]
		labels[i] = place(p.labels(r))
		lines := 0
		if t.note(r) != "" {
			lines = 1
		}
		for _, l := range labels[i] {
			lines = max(lines, l.lane+1)
		}
		p.bars[i] = bottom + 6
		bottom += 24 + lineHeight*float64(lines)
	}
	p.bars[len(t.rows)] = bottom + 6
	p.open(width, bottom+30, fmt.Sprintf("trace %s: %s", t.id, t.rows[0].Name))
	p.head(bottom)
	for i := range t.rows {
		p.row(i, labels[i])
	}
	for i := range t.rows {
		p.links(i)
	}
	p.legend(bottom)
	p.WriteString("</svg>\n")
	return p.Bytes()
}

// x returns where a time is on the axis.
func (p *picture) x(at float64) float64 {
	total := max(p.end-p.start, 1)
	return axisLeft + (axisRight-axisLeft)*min(max((at-p.start)/total, 0), 1)
}

// head draws the title, the axis and what goes through all rows.
func (p *picture) head(bottom float64) {
	total := max(p.end-p.start, 1)
	p.text("head", 12, 24, cut(p.rows[0].Name, 60))
	p.text("note end", width-12, 24, fmt.Sprintf("trace %s, spans: %d, services: %d, %s", cut(p.id, 8), len(p.rows), len(p.services), duration(total)))
	step := ticks(total)
	for n := 0.0; n*step <= total; n++ {
		x := p.x(p.start + n*step)
		p.line("grid", x, rowsTop-8, x, bottom)
		p.text("tick mid", x, rowsTop-14, tick(n*step))
	}
	p.line("grid", 0, rowsTop-2, width, rowsTop-2)
	p.line("grid", 0, bottom, width, bottom)
}

func tick(at float64) string {
	if at == 0 {
		return "0"
	}
	return duration(at)
}

// row draws a span: its names, its bar, and what happened to it.
func (p *picture) row(i int, labels []label) {
	r, y := &p.rows[i], p.bars[i]
	p.WriteString("<g>\n")
	p.element("title", fmt.Sprintf("%s %s, %s\n%s", p.services[r.service], r.Name, duration(r.Duration), p.note(r)))
	p.names(r, y, p.bars[i+1])

	x, end := p.x(r.Start), p.x(r.Start+r.Duration)
	if wait := r.Tags.micros("rego.wait.duration"); wait > 0 {
		p.line("wait", p.x(r.Start-wait), y+barHeight/2, x-2, y+barHeight/2)
		p.shown["wait"] = true
	}
	colour := fmt.Sprintf("s%d", r.service%len(colours))
	if r.lost() {
		colour = fmt.Sprintf("lost%d", r.service%len(colours))
		p.shown["lost"] = true
	}
	if r.failed() {
		colour += " failed"
		p.shown["failed"] = true
	}
	if idle := r.Tags.micros("rego.attempt.unreachable"); idle > 0 {
		sent := min(p.x(r.Start+idle), end)
		p.rect(fmt.Sprintf("idle%d", r.service%len(colours)), x, y+.5, sent-x, barHeight-1)
		p.shown["idle"] = true
		x = sent
	}
	p.rect(colour, x, y, max(end-x, 2), barHeight, attr{"rx", 2.0})
	p.text("label", max(end, x+2)+9, y+10, duration(r.Duration))
	for _, l := range labels {
		p.label(l, y)
	}
	p.WriteString("</g>\n")
}

// names draws what stands left of the axis.
func (p *picture) names(r *row, y, next float64) {
	depth := min(r.depth, maxIndent)
	for d := 1; d <= depth; d++ {
		at := 10 + float64(d-1)*indent
		p.line("guide", at, y-6, at, next-6)
	}
	x := 8 + float64(depth)*indent
	p.rect(fmt.Sprintf("s%d", r.service%len(colours)), x, y-2, 4, barHeight+4)
	x += 10
	p.WriteString(`<g clip-path="url(#names)">` + "\n")
	if r.failed() {
		p.element("circle", "", attr{"class", "badge"}, attr{"cx", x + 6}, attr{"cy", y + 6}, attr{"r", 6.0})
		p.text("bang", x+6, y+9.5, "!")
		x += 17
	}
	service := cut(p.services[r.service], 24)
	p.WriteString(`<text x="` + px(x) + `" y="` + px(y+10) + `"><tspan class="name">`)
	p.escape(service)
	p.WriteString(`</tspan><tspan class="more" dx="6">`)
	room := (namesRight-x-6)/letter - float64(utf8.RuneCountInString(service))*1.1
	p.escape(short(r.Name, int(room)))
	p.WriteString("</tspan></text>\n")
	if note := p.note(r); note != "" {
		class := "note"
		if r.failed() {
			class = "note bad"
		}
		p.text(class, 18+float64(depth)*indent, y+10+lineHeight, cut(note, int((namesRight-18-float64(depth)*indent)/smallLetter)))
	}
	p.WriteString("</g>\n")
}

// links joins the bar to those that ran beside it when it began.
func (p *picture) links(i int) {
	r := &p.rows[i]
	x := p.x(r.Start)
	for _, other := range r.beside {
		o := &p.rows[other]
		from := min(max(x, p.x(o.Start)), p.x(o.Start+o.Duration))
		y, to := p.bars[other]+barHeight/2, p.bars[i]+barHeight/2
		p.line("link", from, y, x, to)
		p.element("circle", "", attr{"class", "knot"}, attr{"cx", from}, attr{"cy", y}, attr{"r", 3.5})
		p.element("circle", "", attr{"class", "knot"}, attr{"cx", x}, attr{"cy", to}, attr{"r", 3.5})
		p.shown["link"] = true
	}
}

// legend explains what the picture has, and no more.
func (p *picture) legend(bottom float64) {
	var words []string
	for _, l := range []struct{ what, means string }{
		{"lost", "hatched: lost to another attempt"},
		{"failed", "red: failed"},
		{"wait", "dotted: a wait before the attempt"},
		{"link", "dashed: ran beside it"},
		{"idle", "dashed frame: no connection"},
		{"mark", "diamond: an event"},
	} {
		if p.shown[l.what] {
			words = append(words, l.means)
		}
	}
	p.text("note", 12, bottom+19, cmp.Or(strings.Join(words, " · "), "times are from the start of the trace"))
}
