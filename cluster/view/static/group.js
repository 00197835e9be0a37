import { get } from './api.js'
import { form, h, loader, number, replace, select, signed } from './dom.js'
import { choices } from './evaluation.js'
import { listed } from './groups.js'
import { player } from './player.js'
import { address, go } from './router.js'
import { keep, view } from './state.js'

const STRIPS = [
  ['logprob', 'log-prob of the engine'], ['learner', 'log-prob of the learner'], ['ratio', 'ratio of learner to engine'],
  ['version', 'version'], ['plain', 'nothing']
]

export function render (box, parameters) {
  let sound = null
  let group = null
  const strips = h('div', { class: 'completions' })
  const place = listed.parameters.run === parameters.run
    ? listed.rows.findIndex(row => String(row.step) === parameters.step && String(row.row) === parameters.row)
    : -1
  const near = by => place < 0 ? undefined : listed.rows[place + by]
  const there = row => ({ run: parameters.run, step: row.step, row: row.row, id: row.group_id })
  const link = (row, text, rel) => row !== undefined && h('a', { rel, href: address('group', there(row)) }, text)
  const step = by => near(by) !== undefined && go('group', there(near(by)))

  const load = loader(box, () => get('group', parameters), told => {
    group = told
    sound = player({ run: parameters.run, sha256: group.audio_sha256 ?? '', example: group.example_id }, group.audio_seconds)
    replace(box,
      h('nav', { class: 'pages', 'aria-label': 'Groups' },
        h('a', { href: address('groups', { ...(place < 0 ? {} : listed.parameters), run: parameters.run }) }, 'All groups'),
        link(near(-1), 'Previous', 'prev'), link(near(1), 'Next', 'next')),
      h('h1', {}, group.question),
      group.drop_reason && h('p', { class: 'drop' }, `Dropped: ${group.drop_reason}`),
      h('div', { class: 'question' },
        h('section', { 'aria-label': 'Choices' },
          choices(group), facts(group)),
        h('section', { 'aria-label': 'Recording' },
          group.silent && h('p', { class: 'note' }, 'The model heard silence in place of it.'), sound.element)),
      group.prompt && h('details', {}, h('summary', {}, 'The prompt'), h('pre', { tabindex: '0' }, group.prompt)),
      group.completions.length > 0 && form(
        select('Colour tokens by', STRIPS, view.strip ?? 'logprob', value => { keep({ strip: value }); show() })),
      strips)
    show()
    return sound.ready
  })

  function show () {
    replace(strips, group.completions.map((one, number) => completion(one, number, view.strip ?? 'logprob', group)))
  }

  return {
    ready: load(),
    leave: () => sound?.stop(),
    keys: { j: () => step(1), k: () => step(-1), p: () => sound?.toggle() }
  }
}

function facts (group) {
  const known = [
    ['step', group.step], ['id', group.example_id], ['task', group.task], ['sub-category', group.sub_category],
    ['difficulty', group.difficulty], ['source', group.source], ['engine', group.engine],
    ['seconds', group.audio_seconds === null ? null : number(group.audio_seconds, 2)]
  ].filter(([, value]) => value !== null && value !== undefined && value !== '')
  return h('dl', {}, known.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, String(value)))))
}

function completion (one, place, strip, group) {
  const ended = { length: 'truncated', abort: 'aborted', stop: 'ended' }[one.finish_reason] ?? one.finish_reason
  return h('article', { class: `completion ${one.correct ? 'is-right' : 'is-wrong'}`, 'aria-label': `Completion ${place + 1}` },
    h('h2', {}, `${place + 1}: ${one.correct ? 'right' : 'wrong'}`),
    h('p', { class: 'figures-line' },
      h('span', {}, `reward ${number(one.total, 2)}`), h('span', {}, `advantage ${signed(one.advantage)}`),
      h('span', {}, `${one.token_ids?.length ?? 0} tokens, ${ended}`)),
    h('p', { class: 'text' }, one.text),
    h('dl', {}, Object.entries(one.rewards).map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, number(value, 2))))),
    strip !== 'plain' && h('p', { class: 'strip' }, tokens(one, strip, group)))
}

function tokens (one, strip, group) {
  const ids = one.token_ids ?? []
  return ids.map((id, place) => {
    const logprob = one.logprobs?.[place]
    const learner = one.learner_logprobs?.[place]
    const version = one.versions?.[place]
    const ratio = logprob === undefined || learner === undefined ? null : Math.exp(learner - logprob)
    const told = [
      `token ${id}`, logprob !== undefined && `engine ${number(logprob)}`, learner !== undefined && `learner ${number(learner)}`,
      ratio !== null && `ratio ${number(ratio)}`, version !== undefined && `version ${version}`
    ].filter(Boolean).join(', ')
    const [hue, depth] = shade(strip, { logprob, learner, ratio, age: group.step - 1 - version })
    return h('span', { class: `token ${hue}`, title: told, style: { '--depth': `${Math.round(100 * depth)}%` } },
      one.tokens?.[place] ?? `${id} `)
  })
}

// Which colour, and how deep, from 0 to 1.
function shade (strip, { logprob, learner, ratio, age }) {
  if (strip === 'version') return ['warm', Math.min(age / 4, 1) || 0]
  if (strip === 'ratio') return ratio === null ? ['none', 0] : [ratio >= 1 ? 'warm' : 'cold', Math.min(Math.abs(Math.log(ratio)) / Math.log(1.5), 1)]
  const value = strip === 'learner' ? learner : logprob
  return value === undefined ? ['none', 0] : ['cold', Math.min(-value / 5, 1)]
}
