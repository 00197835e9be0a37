import { get } from './api.js'
import { form, h, lineColour, loader, number, replace, share, table } from './dom.js'
import { curve, figure } from './plot.js'
import { go } from './router.js'
import { runChoice, theRun, view } from './state.js'

const KEYS = [
  'rollout_busy', 'learner_busy', 'engines', 'engines_lost', 'publish_seconds', 'sync_seconds', 'buffered', 'staleness_max', 'dropped'
]

export function render (box, parameters) {
  const run = theRun(parameters)
  replace(box, h('h1', {}, 'Cluster'))
  if (run === undefined) return {}
  const charts = {
    busy: figure('Busy share of engines and learner'),
    engines: figure('Engines, and how many were lost'),
    updates: figure('Weight updates: seconds until every engine has them'),
    waiting: figure('Groups that wait, and the staleness of the oldest token')
  }
  const tables = h('div', { class: 'tables' })
  replace(box, h('h1', {}, 'Cluster'),
    form(runChoice(run, value => go('cluster', { run: value }))),
    tables, h('div', { class: 'figures' }, Object.values(charts).map(chart => chart.element)))

  let told = null
  const load = loader(box, () => Promise.all([get('cluster', { run: run.name }), get('curves', { run: run.name, key: KEYS })]), found => {
    told = found
    draw()
  })

  function draw () {
    const [cluster, curves] = told
    const { ledger } = cluster
    replace(tables,
      table('Groups', ['fate', 'groups'], ['admitted', 'trained', 'dropped', 'in_flight'].map(key => [key.replace('_', ' '), number(ledger[key])])),
      Object.keys(cluster.dropped_by_reason).length > 0 && table('Dropped, by reason', ['reason', 'groups'],
        Object.entries(cluster.dropped_by_reason).map(([reason, count]) => [reason, number(count)])),
      cluster.engines.length > 0 && table('What the engines have sampled', ['engine', 'groups', 'completions', 'first step', 'newest step', 'mean staleness'],
        cluster.engines.map(one => [
          one.engine, number(one.engine_count), number(one.completions_sum), number(one.step_min), number(one.step_max), number(one.staleness_mean, 2)])))
    const x = curves[view.axis]
    const line = (name, called, place, weight = view.smoothing) =>
      curves.values[name] ? curve(called, lineColour(place), x, curves.values[name], weight) : []
    charts.busy.draw([...line('rollout_busy', 'engines', 0), ...line('learner_busy', 'learner', 1)],
      { yaxis: { tickformat: '.0%', rangemode: 'tozero' } },
      `engines ${share(last(curves, 'rollout_busy'))}, learner ${share(last(curves, 'learner_busy'))}`)
    charts.engines.draw([...line('engines', 'at work', 0, 0), ...line('engines_lost', 'lost so far', 3, 0)],
      { yaxis: { rangemode: 'tozero' } }, `${number(last(curves, 'engines'))} at work, ${number(last(curves, 'engines_lost'))} lost`)
    charts.updates.draw(updates(curves, x), { barmode: 'stack', bargap: 0.1, yaxis: { rangemode: 'tozero' } },
      `the newest took ${number(last(curves, 'sync_seconds'))} s`)
    charts.waiting.draw([...line('buffered', 'finished groups', 0), ...line('staleness_max', 'staleness', 1, 0)],
      { yaxis: { rangemode: 'tozero' } }, `${number(last(curves, 'buffered'))} finished groups wait`)
  }

  return { ready: load(), update: load, watches: ['steps', 'groups'], redraw: () => told !== null && draw(), leave: () => Object.values(charts).forEach(chart => chart.clear()) }
}

function last (curves, name) {
  return curves.values[name]?.at(-1) ?? null
}

// What the learner takes to hand the weights over, and what passes until all engines have them.
function updates (curves, x) {
  const bars = (name, called, place) => curves.values[name]
    ? [{ type: 'bar', x, y: curves.values[name], name: called, marker: { color: lineColour(place) } }]
    : []
  return [...bars('publish_seconds', 'handing over', 1), ...bars('sync_seconds', 'on their way', 0)]
}
