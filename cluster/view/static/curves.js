import { get } from './api.js'
import { form, h, lineColour, loader, number, replace, select, share, table } from './dom.js'
import { curve, figure } from './plot.js'
import { chosenRuns, colour, keep, view } from './state.js'

const PANELS = [
  { title: 'Reward', key: 'reward_mean' },
  { title: 'Accuracy of what is sampled', key: 'accuracy', share: true },
  { title: 'Held-out accuracy', evaluations: true },
  { title: 'Each reward', key: 'rewards.' },
  { title: 'KL to the reference, nats a token', key: 'kl' },
  { title: 'Entropy, nats a token', key: 'entropy' },
  { title: 'Length of completions, tokens', key: 'completion_tokens_mean' },
  { title: 'Truncated completions', key: 'truncated' },
  { title: 'Staleness of the oldest token, versions', key: 'staleness_max' },
  { title: 'Largest log-prob mismatch, nats', key: 'logprob_difference_max', log: true },
  { title: 'Ratio to what was sampled, largest', key: 'off_policy.ratio_max' },
  { title: 'Groups without variance', key: 'zero_variance_groups' },
  { title: 'Tokens a second', key: 'tokens_per_second' },
  { title: 'Seconds of a step, by phase', key: 'seconds.', phases: true },
  { title: 'Loss', key: 'loss' },
  { title: 'Norm of the gradient', key: 'grad_norm' },
  { title: 'Learning rate', key: 'learning_rate' },
  { title: 'Dropped groups, by reason', key: 'dropped_by_reason.' }
]
const KEYS = [...new Set(PANELS.flatMap(panel => panel.key ? [panel.key] : []).concat('step_seconds'))]
const DASHES = ['solid', 'dot', 'dash', 'longdash', 'dashdot', 'longdashdot']

export function render (box) {
  const panels = PANELS.map(panel => ({ ...panel, ...figure(panel.title) }))
  const newest = h('div')
  const slider = h('input', {
    type: 'range', min: '0', max: '0.98', step: '0.02', value: String(view.smoothing),
    oninput: event => { keep({ smoothing: Number(event.target.value) }); draw() }
  })
  replace(box,
    h('h1', {}, 'Curves'),
    form(
      select('Over', [['step', 'steps'], ['hours', 'hours']], view.axis, value => { keep({ axis: value }); draw() }),
      h('label', {}, 'Smoothing', slider)),
    newest,
    h('div', { class: 'figures' }, panels.map(panel => panel.element)))

  let told = []

  function draw () {
    for (const panel of panels) {
      const traces = panel.evaluations ? heldOut(told) : panel.phases && told.length === 1 ? phases(told[0]) : lines(panel, told)
      panel.draw(traces, {
        yaxis: { tickformat: panel.share || panel.evaluations ? '.0%' : undefined, type: panel.log ? 'log' : 'linear' }
      }, says(panel, told))
    }
  }

  const load = loader(box, () => Promise.all(chosenRuns().map(async run => ({
    run, curves: await get('curves', { run: run.name, key: KEYS }), evaluations: await get('evaluations', { run: run.name })
  }))), found => {
    told = found
    replace(newest, told.length === 0
      ? h('p', {}, 'Choose a run above.')
      : table('Newest step', ['run', 'step', 'reward', 'accuracy', 'KL', 'seconds a step'], told.map(({ run }) => [
        run.name, `${number(run.step)} of ${number(run.max_steps)}`, number(run.last.reward_mean), share(run.last.accuracy),
        number(run.last.kl), number(run.last.step_seconds, 2)])))
    draw()
  })

  return { update: load, watches: ['steps', 'evaluations'], redraw: draw, leave: () => panels.forEach(panel => panel.clear()), ready: load() }
}

function says (panel, told) {
  return told.filter(({ curves }) => panel.key in curves.values)
    .map(({ run, curves }) => `${run.name} ${number(curves.values[panel.key].at(-1))} at step ${curves.step.at(-1)}`).join('; ')
}

// One colour a run, one kind of line a key.
function lines (panel, told) {
  return told.flatMap(({ run, curves }) => {
    const names = Object.keys(curves.values).filter(name =>
      panel.phases ? name === 'step_seconds' : panel.key.endsWith('.') ? name.startsWith(panel.key) : name === panel.key)
    return names.flatMap((name, place) => {
      const called = [told.length > 1 || names.length === 1 ? run.name : '', names.length > 1 ? name.slice(panel.key.length) : '']
      return curve(called.filter(Boolean).join(' '), colour(run.name), curves[view.axis], curves.values[name],
        panel.log ? 0 : view.smoothing, DASHES[place % DASHES.length])
    })
  })
}

function phases ({ curves }) {
  const names = Object.keys(curves.values).filter(name => name.startsWith('seconds.'))
  return names.map((name, place) => ({
    x: curves[view.axis], y: curves.values[name], name: name.slice('seconds.'.length), stackgroup: 'one', mode: 'lines',
    line: { width: 0.5, color: lineColour(place) }
  }))
}

// Validations over the steps, and what came before and after on the held-out questions, with their intervals.
function heldOut (told) {
  return told.flatMap(({ run, curves, evaluations }) => {
    const at = step => view.axis === 'step' ? step : hoursAt(curves, step)
    const all = Object.entries(evaluations)
    const line = (name, some, taken, dash, symbol) => some.length === 0
      ? []
      : [{
          name,
          x: some.map(([, one]) => at(one.step)),
          y: some.map(([, one]) => taken(one)),
          mode: some.length > 1 ? 'lines+markers' : 'markers',
          line: { color: colour(run.name), dash },
          marker: { color: colour(run.name), symbol, size: 8 }
        }]
    const validations = all.filter(([name]) => name.startsWith('validation_step_'))
    const tests = all.filter(([name]) => name === 'base' || name === 'trained')
    const prefix = told.length > 1 ? `${run.name} ` : ''
    const tasks = told.length > 1 ? [] : [...new Set(validations.flatMap(([, one]) => Object.keys(one.by_task ?? {})))].filter(Boolean)
    const errors = tests.map(([, one]) => one.accuracy_interval ?? [one.accuracy, one.accuracy])
    return [
      ...line(`${prefix}validation`, validations, one => one.accuracy, 'solid', 'circle'),
      ...tasks.flatMap((task, place) => line(`${task}`, validations, one => one.by_task?.[task]?.accuracy ?? null,
        DASHES[1 + place % (DASHES.length - 1)], 'circle-open')),
      ...line(`${prefix}held out`, tests, one => one.accuracy, 'dot', 'diamond').map(trace => ({
        ...trace,
        error_y: {
          type: 'data', symmetric: false, thickness: 1.5, color: colour(run.name),
          array: errors.map(([, high], place) => high - trace.y[place]),
          arrayminus: errors.map(([low], place) => trace.y[place] - low)
        }
      }))
    ]
  })
}

function hoursAt (curves, step) {
  if (step === 0) return 0
  const place = curves.step.findIndex(one => one >= step)
  return place < 0 ? curves.hours.at(-1) : curves.hours[place]
}
