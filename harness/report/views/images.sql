-- Single test images: their bound, and what became of them under every attack.

-- A class as people read it, '3 (cat)': without a name where the results hold none, or none that says more.
create macro class_text(label, class_name) as
    label::varchar || if(class_name <> label::varchar, ' (' || class_name || ')', '');

-- The bound of every test image for both readings of "nearest neighbour", at the k's of the study's own defense (1, 2,
-- 2.5 and 3 where it has none) and at that by which attacks are scored.
create view image_bounds as
with ks as (
    select study, k from planned where method = 'imperceptible_bound' and k is not null
    union select study, unnest([1, 2, 2.5, 3]::double[]) from studies
          where study not in (select study from planned where method = 'imperceptible_bound' and k is not null)
    union select study, effectiveness_k from studies
)
select b.study, s.dataset, b.image_id, b.label, class_text(b.label, own.class_name) as class, b.neighbours, b.neighbours = s.neighbours as gives_sigma,
       b.neighbour_id, b.neighbour_label, class_text(b.neighbour_label, other.class_name) as neighbour_class, b.distance, ks.k,
       sigma(b.distance, ks.k) as sigma
from bound b
join studies s on s.study = b.study
join ks on ks.study = b.study
left join classes own on own.study = b.study and own.label = b.label
left join classes other on other.study = b.study and other.label = b.neighbour_label
where b.split = 'test'
order by b.study, b.image_id, b.neighbours desc, ks.k;

-- Sigma of each test image, at the k by which attacks are scored.
create view own_sigma as
select b.study, b.image_id, sigma(b.distance, s.effectiveness_k) as sigma
from bound b join studies s on s.study = b.study and s.neighbours = b.neighbours
where b.split = 'test';

-- What every network says of every test image, clean and attacked.
--   fate      right or wrong of a clean image; of an attacked one fooled or withstands, or wrong when clean
--   ratio     mean l1 change over the image's own sigma: at most 1 is imperceptible by the paper's definition
create view image_fates as
select e.study, s.dataset, e.image_id, e.label, class_text(e.label, own.class_name) as class, n.role, e.name, n.title, e.seed, e.access, e.attack,
       coalesce(p.attack_title, e.attack) as attack_title, coalesce(p.stage, false) as stage,
       e.norm, e.epsilon, e.step_size, c.prediction as clean_prediction, e.prediction, class_text(e.prediction, said.class_name) as predicted,
       case when e.access = 'clean' then if(e.prediction = e.label, 'right', 'wrong')
            when c.prediction <> e.label then 'wrong when clean'
            when e.prediction <> e.label then 'fooled' else 'withstands' end as fate,
       coalesce(e.l0, a.l0) as l0, coalesce(e.mean_l1, a.mean_l1) as mean_l1, coalesce(e.l1, a.l1) as l1,
       coalesce(e.l2, a.l2) as l2, coalesce(e.linf, a.linf) as linf,
       coalesce(e.mean_l1, a.mean_l1) / nullif(o.sigma, 0) as ratio, n.position as network_position, p.position
from evaluation e
join studies s on s.study = e.study
join networks n on n.study = e.study and n.name = e.name and n.seed = e.seed
left join evaluation c
    on c.study = e.study and c.name = e.name and c.seed = e.seed and c.image_id = e.image_id
    and c.access = 'clean' and c.split = 'test'
left join attack a
    on a.split = 'test' and a.study = e.study and a.name = e.source and a.seed = e.seed and a.attack = e.attack
    and a.epsilon is not distinct from e.epsilon and a.step_size is not distinct from e.step_size
    and a.image_id = e.image_id
left join planned p
    on p.split = 'test' and p.study = e.study and p.name = e.name and p.seed = e.seed and p.access = e.access
    and p.attack = e.attack and p.epsilon is not distinct from e.epsilon
    and p.step_size is not distinct from e.step_size
left join own_sigma o on o.study = e.study and o.image_id = e.image_id
left join classes own on own.study = e.study and own.label = e.label
left join classes said on said.study = e.study and said.label = e.prediction
where e.split = 'test'
order by e.study, e.image_id, n.position, p.position;

-- Certified radii of single images; no class where the smoothed network abstains.
create view image_radii as
select c.study, c.image_id, n.role, c.name, n.title, c.seed, c.noise_sd, c.label, c.prediction,
       case when c.prediction >= 0 then class_text(c.prediction, t.class_name) end as predicted,
       c.radius, c.attacked_l2, n.position
from certified c
join networks n on n.study = c.study and n.name = c.name and n.seed = c.seed
left join classes t on t.study = c.study and t.label = c.prediction
order by c.study, c.image_id, n.position, c.noise_sd;

-- Adversarial test images as they were made: on the base network, and on each network itself.
--   path      of the cell, whose images may be kept beside it
create view made_images as
with made as (
    select study, cell, name, seed, attack, epsilon, step_size, image_id, label, predicted as clean_prediction,
           adversarial_predicted as prediction, l0, mean_l1, l1, l2, linf
    from attack where split = 'test'
    union all by name
    select e.study, e.cell, e.name, e.seed, e.attack, e.epsilon, e.step_size, e.image_id, e.label,
           c.prediction as clean_prediction, e.prediction, e.l0, e.mean_l1, e.l1, e.l2, e.linf
    from evaluation e join evaluation c
        on c.study = e.study and c.name = e.name and c.seed = e.seed and c.image_id = e.image_id
        and c.access = 'clean' and c.split = 'test'
    where e.split = 'test' and e.access = 'white_box' and e.mean_l1 is not null
)
select m.*, class_text(m.prediction, t.class_name) as predicted, cells.path, m.clean_prediction = m.label and m.prediction <> m.label as fooled,
       m.mean_l1 / nullif(o.sigma, 0) as ratio
from made m
join cells on cells.study = m.study and cells.key = m.cell
left join own_sigma o on o.study = m.study and o.image_id = m.image_id
left join classes t on t.study = m.study and t.label = m.prediction;

-- The pictures, with their classes as people read them.
create view pictures as
select s.*, class_text(s.label, t.class_name) as class
from sample s left join classes t on t.study = s.study and t.label = s.label;

-- Attacks by how little they change what they fool, network by network: first those that fool half of the images.
create view least_changes as
with counted as (
    select study, name, seed, attack, epsilon, step_size, path, count(*) as images,
           100 * count(*) filter (fooled) / nullif(count(*) filter (clean_prediction = label), 0) as fooled,
           avg(mean_l1) filter (fooled) as mean_l1, median(ratio) filter (fooled) as median_ratio
    from made_images group by all
)
select c.study, n.role, c.name, n.title, c.seed, c.attack,
       coalesce(p.attack_title, c.attack) as attack_title, c.epsilon, c.path, c.images, c.fooled, c.mean_l1,
       c.median_ratio, n.position
from counted c
join networks n on n.study = c.study and n.name = c.name and n.seed = c.seed
left join (
    select study, seed, attack, epsilon, step_size, any_value(attack_title) as attack_title
    from planned where split = 'test' group by all
) p on p.study = c.study and p.seed = c.seed and p.attack = c.attack and p.epsilon is not distinct from c.epsilon
    and p.step_size is not distinct from c.step_size
where c.mean_l1 is not null
order by c.study, n.position, c.fooled < 50, c.mean_l1, c.path;

-- Fig. 1: what each attack on the base network does to an image that the network is right on. First the image that
-- stands best for all others.
--   effective     fooled by a mean l1 of at most the mean sigma of the training images (III-B)
--   of_images     per cent of the images on which the attack is effective
--   agrees        attacks, of so many, that do to this image what they do to most
create view attacks_on_images as
with black_box as (
    select distinct study, cell from attack where split = 'test'
), judged as (
    select m.*, e.attack_title, e.position, e.mean_sigma, m.fooled and m.mean_l1 <= e.mean_sigma as effective
    from made_images m
    join black_box b on b.study = m.study and b.cell = m.cell
    join effectiveness e on e.study = m.study and e.seed = m.seed
        and e.attack = m.attack and e.epsilon is not distinct from m.epsilon
    where m.clean_prediction = m.label
), counted as (
    select *, 100 * avg(effective::int) over (partition by study, cell, seed) as of_images from judged
)
select *, sum((effective = (of_images > 50))::int) over (partition by study, seed, image_id) as agrees,
       count(*) over (partition by study, seed, image_id) as attacks
from counted order by study, seed, agrees desc, image_id, position;
